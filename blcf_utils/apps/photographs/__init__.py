"""Own photographs: a folder indexed once, brought up to date cheaply, and searched.

An index lies in the cache, never in the folder itself:

| file | what it is |
|---|---|
| ``manifest.json`` | settings, the photographs' files and contents, what can be searched, size \
and digest of every file below (`manifest`) |
| ``settings.json`` | the settings once more |
| ``words/`` | whitening and codebook, learned once on a sample, or shipped (`words`) |
| ``shards/`` | encoded photographs, up to 64 a file (`shards`) |
| ``searched/`` | artefacts that searches read, made of the shards (`collection`) |
"""
