"""What both queues need to tell new events from such as were accepted before.

Owns the judgement of a batch in memory; what a batch is compared with beyond that belongs to each queue.
"""
