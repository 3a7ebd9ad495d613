"""What is derived from a results folder: text, figures, the page, exports."""
