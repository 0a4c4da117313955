"""The results of an analysis: named parameters, chains of draws, and statistics of dependent rows."""
