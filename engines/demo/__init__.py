"""The demo: procedural tabletop scenes, prompts about them, and the trainer of the shipped demo bundle."""
