"""The report of a run: its record, the pictures drawn from it, and one page that holds both."""
