"""PyTorch to ONNX, and int8: graphs, ranges of activations, fake quantization, floors."""
