_base_ = './kinetics400_32x2x1.py'
train_pipeline = _base_.train_pipeline
val_pipeline = _base_.val_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[1].update(clip_len=128, frame_interval=1)
val_pipeline[1].update(clip_len=128, frame_interval=1)
test_pipeline[1].update(clip_len=128, frame_interval=1)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=2, dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
