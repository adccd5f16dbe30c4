"""Do serving and training see the same features and scores, row by row?"""
