"""The smallest model, written imperatively: a plain training loop on the handwritten digits.

python examples/smallest.py [--quick]
"""

import sys

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn import data, nn, optim

train, test = data.load("digits")
rng = np.random.default_rng(0)

conv1 = nn.Conv2D(1, 16, 3, padding=1, rng=rng)
conv2 = nn.Conv2D(16, 32, 3, padding=1, rng=rng)
fc = nn.Linear(4 * 4 * 32, 10, rng=rng)


def model(x):                                           # N 8 8 1
    h = tc.relu(conv1(x))                               # N 8 8 16
    h = tc.relu(conv2(h))                               # N 8 8 32
    h = tc.max_pool2d(h, kernel_size=2)                 # N 4 4 32
    return fc(tc.flatten(h, 1))                            # N 10


parameters = [*conv1.parameters(), *conv2.parameters(), *fc.parameters()]
optimizer = optim.AdamW(parameters, lr=2e-3)
batches = data.DataLoader(train, batch_size=32, shuffle=True, seed=0,
                          transform=data.ToFloat(1 / 16))

for epoch in range(2 if "--quick" in sys.argv else 8):
    total = 0.0
    for images, labels in batches:
        loss = tc.cross_entropy(model(tc.Tensor(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(images)              # a number: the graph is let go
    print(f"epoch {epoch + 1}: loss {total / len(train):.4f}")

with tc.no_grad():
    scores = model(tc.Tensor(test.images.astype(np.float32) / 16))
print(f"test accuracy {(scores.argmax(1) == test.labels).mean():.1%} ({test.split})")
