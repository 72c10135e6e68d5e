"""Arms, which are ways to ask, on the same items, over any OpenAI-compatible endpoint: `redraft bench compare`.

settings, arms    what is asked, of whom and how
plan              in which order
asking, engine    the answers, and what the engine counted meanwhile
folder            both on disk, as they come
outcomes          what each answer was worth
summary, frontier what arms come to, by themselves and beside each other
page, words       the report
"""
