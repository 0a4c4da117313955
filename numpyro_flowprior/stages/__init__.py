"""Sequential analysis: each stage's posterior is the next one's prior, and whether that went well."""
