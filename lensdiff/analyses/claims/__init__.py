"""The paper's three claims, answered for a pair."""
