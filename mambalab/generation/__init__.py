"""Text from language models: prefill, decoding, sampling, streaming."""
