"""Images and labels, which of them a seed trains on and in what order, and how they reach the step."""
