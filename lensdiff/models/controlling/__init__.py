"""How controls are made: copies, samples, training, gradients, and where what is expensive is kept."""
