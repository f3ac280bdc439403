"""What ``config`` is made of: how recipes are found and written, what keys are called elsewhere, limits, and messages."""
