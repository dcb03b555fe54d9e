"""Problems whose answer is known: `envs` has the environments, the tests that train on them lie beside it."""
