"""Whose memory a tensor lies in."""

from torch import Tensor


def covers(parameter: Tensor, other: Tensor) -> bool:
    """Whether a parameter holds another tensor: one tensor seen twice, or a fused one and its part."""
    # queries, keys and values that lie interleaved are neither
    if parameter.data_ptr() == other.data_ptr():
        return True
    (start, end), (first, last) = _span(parameter), _span(other)
    return parameter.numel() > other.numel() and start <= first and last <= end


def _span(tensor: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.itemsize
