"""The gallery of a corpus: pages that open from the disk, and the data files beside them. docs/gallery.md describes it.

    index.html, gallery/*.js, gallery/*.css             the page: the same for every corpus, but for its title
    gallery/catalogue.js                                the shards of the newest snapshot, and where their files lie
    shards/<shard>/gallery-<digest>.js                  what filters and sorts need of a shard's objects
    shards/<shard>/rejected-<digest>.js                 examples of a shard's rejects
    gallery/<shard>/<first>-<digest>.webp               sheets of small pictures
    gallery/<shard>/<first>-<digest>.js                 all columns of some objects

A page that was opened from the disk may not read files, but it may run scripts. So a data file is a script that calls
the function `anything3d` with JSON.
"""
