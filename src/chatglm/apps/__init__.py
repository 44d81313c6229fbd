"""Applications: what people want done with a language model."""
