"""Images and labels in memory, and which of them a seed trains on, holds out, and in what order."""
