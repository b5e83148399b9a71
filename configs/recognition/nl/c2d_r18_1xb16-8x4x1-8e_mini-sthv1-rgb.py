# A network that looks at single frames, on classes that differ in the order of frames.
_base_ = [
    '../_base_/models/nl_c2d_r50.py',
    '../_base_/datasets/mini_sthv1.py',
    '../_base_/schedules/mini_8e.py',
    '../_base_/default_runtime.py',
]
train_pipeline = [
    dict(type='SampleFrames', clip_len=8, frame_interval=4, num_clips=1),
    dict(type='RawFrameDecode'),
    dict(type='Resize', scale=(42, 32), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(
        type='SampleFrames', clip_len=8, frame_interval=4, num_clips=1, test_mode=True
    ),
    *train_pipeline[1:],
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=16, dataset=dict(pipeline=test_pipeline))
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet3d',
        depth=18,
        pretrained=None,
        pretrained2d=False,
        base_channels=16,
        num_stages=3,
        out_indices=(2,),
        spatial_strides=(1, 2, 2),
        temporal_strides=(1, 1, 1),
        dilations=(1, 1, 1),
        conv1_kernel=(1, 5, 5),
        conv1_stride_t=1,
        pool1_stride_t=1,
        inflate=0,
        zero_init_residual=False,
    ),
    cls_head=dict(
        num_classes={{_base_.num_classes}}, in_channels=64, dropout_ratio=0.2
    ),
)
