"""What an analysis leaves behind: named parameters, chains, and their formats."""
