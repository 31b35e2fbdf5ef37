"""The packaged mini weights as they are before any training: `python -m anything3d.mini.untrained` writes them.

They are random, and the manifest says so. Training a network replaces its folder and its line of the manifest.
"""

from anything3d.mini import blip, clip, diffusion, dino, pointe, sam, taesd
from anything3d.models.weights import PACKAGED, write_manifest

SEED = 0

if __name__ == "__main__":
    PACKAGED.mkdir(exist_ok=True)
    blip.save(blip.build(SEED), PACKAGED / "blip")
    clip.save(clip.build(SEED), PACKAGED / "clip")
    diffusion.save(diffusion.build(SEED), PACKAGED / "diffusion")
    dino.save(dino.build(SEED), PACKAGED / "dino")
    taesd.save(taesd.build(SEED), PACKAGED / "taesd")
    sam.save(sam.build(SEED), PACKAGED / "sam")
    pointe.save(pointe.build(SEED), PACKAGED)
    for folder in sorted(path for path in PACKAGED.iterdir() if path.is_dir()):
        write_manifest(folder.name, trained=False)
