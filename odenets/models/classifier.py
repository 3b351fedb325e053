"""An image classifier around a flow."""

from torch import Tensor, nn

from odenets.fields.conv import group_norm


class ImageClassifier(nn.Module):
    """Stem (convolution, group norm), a shape-preserving flow on the feature maps, pooled linear head.

    Args:
        flow: `FlowStack`, `NeuralODE` or any module [B, channels, H, W] -> the same shape.
        in_channels: channels of the images.
        channels: channels of the feature maps the flow works on.
        classes: number of classes.
        stride: stride of the stem's 3x3 convolution; 2 or 4 for larger images.
        pool: the feature maps are averaged over a pool x pool grid of cells before the linear layer; 1 is global
            average pooling; more keeps where in the image a feature was, which small images learn much faster with
            (scikit-learn's 8x8 digits: 4).

    Raises:
        ValueError: (on call) images not [B, in_channels, H, W], or the flow changes the shape.
    """

    def __init__(
        self,
        flow: nn.Module,
        in_channels: int = 1,
        channels: int = 32,
        classes: int = 10,
        stride: int = 1,
        pool: int = 2,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False), group_norm(channels)
        )
        self.flow = flow
        self.head = nn.Sequential(
            group_norm(channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(pool),
            nn.Flatten(),
            nn.Linear(channels * pool**2, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """images [B, in_channels, H, W]. Returns logits [B, classes]."""
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"ImageClassifier expects images [B, {self.in_channels}, H, W], got {list(images.shape)}; "
                "set in_channels= or add the missing dimension"
            )
        x = self.stem(images)
        y = self.flow(x)
        if y.shape != x.shape:
            raise ValueError(
                f"ImageClassifier expects a flow that keeps the shape, got {list(x.shape)} -> {list(y.shape)}; "
                "a NeuralODE here needs output='end'"
            )
        return self.head(y)
