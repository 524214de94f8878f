"""The demo's made-up world: generated problems, tiny diffusion models trained on them, and lm-eval tasks.

Nothing is imported here, so that reading a task file never pulls in torch.
"""
