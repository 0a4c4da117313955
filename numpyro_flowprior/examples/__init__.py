"""The closed-form twin of the paper's study, and the demo."""
