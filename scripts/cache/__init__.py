"""What a frozen network says, kept on disk: the teacher's outputs, and an encoder's embeddings.

`filling` computes what is missing, `entries` and `batch_reader` read what is there, `warp` moves it along with an
image, and `cached_teacher` is the teacher that a training asks. `entry_store` finds and checks entries in the files of
`shards`, and reads those that earlier versions kept as `entry_files`.
"""
