def summarize(found):
    return str([(t.id, t.status, t.score) for t in found.ranked])
