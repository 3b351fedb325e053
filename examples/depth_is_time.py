"""Train a residual network on handwritten digits, then run it with smaller steps: did it learn a flow or only a map?

A block is a step of forward Euler. With h halved and every block used twice, a network that has learned a flow answers
as before; one that depends on its own step size does not.

    python examples/depth_is_time.py                 # about 20 s
    python examples/depth_is_time.py --epochs 2
"""

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from odenets.blocks import Residual
from odenets.fields import Conv
from odenets.models import FlowStack, ImageClassifier

CHANNELS = 32


def main(epochs: int) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=digits.target)

    def block() -> Residual:
        return Residual(Conv(CHANNELS, activation="silu", norm="group"), norm=torch.nn.GroupNorm(8, CHANNELS))

    model = ImageClassifier(FlowStack(block, T=1.0, N=4), channels=CHANNELS, pool=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for chosen in torch.tensor(train)[torch.randperm(len(train))].split(64):
            loss = torch.nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    trained, answers = model.flow, model(images[test]).softmax(-1)
    print("    h   steps   accuracy   mean change of the probabilities")
    for factor in (1, 2, 4):
        model.flow = trained.refine(factor)
        with torch.no_grad():
            finer = model(images[test]).softmax(-1)
        accuracy = (finer.argmax(1) == labels[test]).float().mean()
        change = (finer - answers).abs().sum(-1).mean() / 2
        print(f"{model.flow.h:5.3f} {model.flow.N:7d} {accuracy:10.4f} {change:10.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    main(parser.parse_args().epochs)
