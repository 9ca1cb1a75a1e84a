"""What an analysis is to a run: its options, and its steps, each of units that are never repeated once finished."""
