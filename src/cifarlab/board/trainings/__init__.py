"""Start trainings from the board: the queue, the form's settings, and their routes."""
