"""What a run does: classification trains a network; spiral trains nothing and measures a map."""
