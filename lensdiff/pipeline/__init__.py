"""A config becomes every analysis, a results directory and a report."""
