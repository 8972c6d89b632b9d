"""What a frozen network says, kept on disk: the teacher's outputs, and an encoder's embeddings.

`filling` computes what is missing, `entries` reads what is there, `warp` moves it along with an image, and
`cached_teacher` is the teacher that a training asks. `entry_store` writes and checks the files.
"""
