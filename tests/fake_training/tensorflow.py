"""In TensorFlow's place, for tests that must not import it."""

raise RuntimeError("TensorFlow was imported")
