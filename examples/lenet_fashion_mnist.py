"""LeNet on Fashion-MNIST, with the trainer: 90 % of the 10,000 test images after 3 epochs.

The set is looked for as ``docs/data.md`` says; on Debian and Ubuntu it is the package
``dataset-fashion-mnist``.  With ``--quick`` and no set, the built-in digits stand in for it.

python examples/lenet_fashion_mnist.py [--quick] [--data FOLDER]
"""

import argparse

import numpy as np

from tinygrad_cnn import data, models, optim
from tinygrad_cnn.errors import DataError
from tinygrad_cnn.train import Trainer, summarize

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--quick", action="store_true", help="one epoch of 2,000 images")
options.add_argument("--data", help="folder of the four files")
args = options.parse_args()

try:
    train, test = data.load("fashion-mnist", root=args.data)
except DataError as error:
    if not args.quick:
        raise SystemExit(str(error)) from None
    print("Fashion-MNIST is not here; the digits stand in for it")
    train, test = data.load("digits")
if args.quick:
    train, test = train.subset(slice(2000)), test.subset(slice(1000))
epochs = 1 if args.quick else 3

scale = 1 / train.peak
mean, std = data.channel_statistics(train.images, scale=scale)
prepare = data.Compose([data.ToFloat(scale), data.Normalize(mean, std)])
batches = data.DataLoader(train, batch_size=64, shuffle=True, seed=0, drop_last=True,
                          transform=prepare)

model = models.build("lenet", train.image_shape, 10, rng=np.random.default_rng(0))
print(summarize(model, train.image_shape))
optimizer = optim.AdamW(model.parameters(), lr=2e-3)
schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=epochs * len(batches))
trainer = Trainer(model, optimizer, schedule=schedule, log=print)
trainer.fit(batches, epochs)

result = trainer.evaluate(data.DataLoader(test, batch_size=256, seed=0, transform=prepare))
print(f"test accuracy {result['accuracy']:.2%} of {len(test):,} images ({test.split})")
