"""Sequential analysis: each stage's posterior is the next one's prior, and what tells whether that went well."""
