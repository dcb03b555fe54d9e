"""One file each; `jaxtrain.config.ALGORITHMS` names them. They know neither each other nor the loop."""
