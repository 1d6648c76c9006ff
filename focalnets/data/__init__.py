"""Images and labels: from a name, folder or zip to batches of uint8."""
