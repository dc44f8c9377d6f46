"""Text from a model: drawing tokens, streams of text, chat."""
