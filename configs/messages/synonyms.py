"""Words of other toolkits for keys and values: Lightning, Accelerate, HF Trainer, Ultralytics, mmengine, timm, torchvision.

Words are lower case, with `_` for `-`. A word with a section counts only there; one without it counts in every section.
"""

from collections.abc import Mapping


def _by_word(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """From `{"meant or meant": "word word"}` to what each word means."""
    return {word: tuple(meant.split()) for meant, words in table.items() for word in words.split()}


SECTIONS = {word: meant[0] for word, meant in _by_word({
    "optim": "optimizer optimiser optim_wrapper",
    "schedule": "scheduler lr_scheduler sched",
    "data": "dataset datamodule dataloader train_dataloader",
    "train": "trainer training hp hyp",
    "model": "net network",
    "loss": "criterion",
    "dist": "distributed",
    "track": "logger logging",
    "checkpoint": "ckpt checkpointing",
    "evaluate": "eval evaluation",
    "data.augment": "augment augmentation augmentations transforms",
    "slurm": "sbatch cluster",
}).items()}  # fmt: skip

# The intended key or keys, and their synonyms.
KEYS = _by_word({
    "train.global_batch train.micro_batch": "batch_size batch bs batchsize",
    "train.global_batch": "total_batch_size train_batch_size effective_batch_size ims_per_batch",
    "train.micro_batch":
        "per_device_train_batch_size per_device_batch_size per_gpu_batch_size train_micro_batch_size_per_gpu "
        "batch_size_per_gpu samples_per_gpu micro_batch_size ims_per_gpu",
    "train.epochs": "epochs max_epochs num_epochs num_train_epochs n_epochs nepochs epoch",
    "train.steps": "steps max_steps num_steps max_iters max_iter iterations iters num_iterations total_steps",
    "slurm.time": "train.max_time trainer.max_time slurm.timeout slurm.timeout_min slurm.time_min slurm.slurm_time "
        "walltime time_limit",
    "train.patience": "patience early_stopping early_stop early_stopping_patience early_stopping_rounds",
    "optim.lr": "learning_rate base_lr lr0 max_lr",
    "optim.weight_decay": "wd l2",
    "optim.name": "opt optimizer optimiser optim.type optimizer.type optim_wrapper.optimizer.type",
    "optim.betas": "beta adam_beta1 adam_beta2 beta1 beta2 opt_betas",
    "optim.eps": "adam_epsilon opt_eps epsilon",
    "optim.no_decay": "no_weight_decay norm_weight_decay bias_weight_decay",
    "optim.lr_factors optim.no_decay": "paramwise_cfg param_groups",
    "optim.lr_factors": "lr_mult backbone_lr layer_decay",
    "train.clip_norm": "gradient_clip_val gradient_clipping grad_clip clip_grad clip_grad_norm max_grad_norm",
    "schedule.name": "param_scheduler lr_policy lr_config.policy scheduler sched lr_scheduler lr_scheduler_type "
        "lr_schedule schedule.type cos_lr",
    "schedule.warmup_steps": "warmup warmup_epochs warmup_iters warmup_ratio lr_warmup_epochs num_warmup_steps",
    "schedule.gamma": "lr_gamma decay_rate",
    "schedule.milestones": "lr_steps lr_step_size step_size",
    "schedule.final": "min_lr eta_min lr_min lrf",
    "schedule.warmup_bias_lr": "warmup_bias",
    "dist.precision": "amp amp_dtype autocast torch_dtype allow_tf32 mixed_precision use_amp bf16 fp16 half tf32 dtype",
    "dist.strategy": "distributed_type ddp fsdp zero_stage deepspeed_stage zero_optimization.stage sharding_strategy parallel",
    "dist.sync_bn": "sync_batchnorm syncbn sync_batch_norm",
    "dist.device": "accelerator use_cpu",
    "dist.compile": "torch_compile compile_model",
    "dist.offload": "cpu_offload",
    "dist.channels_last": "memory_format",
    "dist.threads": "num_threads",
    "dist.timeout_s": "ddp_timeout dist.timeout",
    "dist.deepspeed": "deepspeed_config deepspeed_config_file",
    "seed": "random_seed manual_seed seed_everything data_seed",
    "data.workers": "num_workers dataloader_num_workers workers_per_gpu n_workers",
    "data.root": "data_dir data_path data_root dataset_path data.path data.dir data.folder",
    "data.name": "data.type dataset_name",
    "data.image_size": "img_size imgsz input_size crop_size image_size train_crop_size resize",
    "data.mean": "imagenet_mean",
    "data.mean data.std": "normalize normalise normalization",
    "data.ignore_index": "ignore_label",
    "data.val_fraction": "val_split_ratio val_ratio validation_split",
    "data.fold": "num_folds kfold",
    "data.augment.flip": "hflip fliplr horizontal_flip",
    "data.augment.vertical_flip": "vflip flipud",
    "data.augment.rotate": "degrees rotation",
    "data.augment.shift": "translate",
    "data.augment.brightness data.augment.contrast data.augment.saturation data.augment.hue": "color_jitter colour_jitter",
    "data.augment.hue": "hsv_h",
    "data.augment.saturation": "hsv_s",
    "data.augment.brightness": "hsv_v",
    "data.augment.randaugment data.augment.trivialaugment": "auto_augment autoaugment aa",
    "data.augment.erasing": "reprob random_erase random_erasing",
    "data.augment.mixup": "mixup_alpha",
    "data.augment.cutmix": "cutmix_alpha",
    "data.augment.area": "random_resized_crop",
    "data.augment.randaugment_magnitude": "ra_magnitude",
    "data.crop_share": "crop_pct crop_fraction",
    "data.augment.sizes": "multiscale multi_scale",
    "data.augment.mosaic_epochs": "close_mosaic",
    "model.name": "arch architecture model_name model.type",
    "model.backbone": "encoder encoder_name backbone.type model.backbone.type",
    "model.weights": "pretrained model.checkpoint init_checkpoint initial_checkpoint load_from pretrained_weights "
        "pretrained_model_name_or_path finetune init_from",
    "model.backbone_weights": "encoder_weights weights_backbone pretrained_backbone",
    "model.num_classes": "nc n_classes classes",
    "model.in_channels": "in_chans channels",
    "model.drop_path": "drop_path_rate",
    "model.dropout": "drop_rate",
    "model.freeze": "frozen_stages freeze_backbone freeze_encoder freeze_layers trainable_layers "
        "trainable_backbone_layers unfreeze",
    "loss.name": "criterion loss_fn loss_type loss_function loss.type",
    "loss.label_smoothing": "smoothing label_smoothing_factor",
    "loss.class_weights": "class_weight",
    "loss.auxiliary": "aux_loss aux_weight aux_loss_weight auxiliary_head.loss_decode.loss_weight",
    "train.ema": "model_ema model_ema_decay ema_decay ema_rate use_ema",
    "train.eval_every": "eval_steps val_check_interval check_val_every_n_epoch val_interval eval_interval eval_period "
        "evaluation.interval evaluate.interval evaluate.every",
    "train.log_every": "log_every_n_steps logging_steps print_freq log_interval logger.interval log_config.interval",
    "checkpoint.every_steps": "save_steps save_every save_interval save_period checkpoint_interval checkpoint_every "
        "checkpoint_period checkpoint_freq save_freq ckpt_interval checkpoint.interval "
        "checkpoint_config.interval every_n_train_steps",
    "checkpoint.keep": "save_total_limit save_top_k max_keep_ckpts checkpoint_hist",
    "checkpoint.best": "monitor save_best metric_for_best_model eval_metric best_metric early_stopping_metric "
        "load_best_model_at_end save_best_only",
    "checkpoint.best_mode": "greater_is_better checkpoint.mode",
    "runs name": "output_dir work_dir",
    "runs": "default_root_dir save_dir log_dir logging_dir logdir out_dir outdir save_path checkpoint_dir ckpt_dir exp_dir",
    "name": "exp_name experiment_name run_name experiment",
    "track.wandb": "use_wandb wandb wandb_mode track.mode",
    "track.wandb track.tensorboard": "report_to",
    "track.project": "wandb_project",
    "track.tensorboard": "tensorboard",
    "evaluate.score": "conf_thres score_threshold score_thr conf evaluate.threshold rpn_score_thresh",
    "evaluate.nms_iou": "iou_thres nms_threshold nms_thresh iou_threshold evaluate.iou",
    "evaluate.detections": "max_det max_detections max_per_img",
    "evaluate.scales evaluate.flip": "tta",
    "evaluate.scales": "evaluate.multi_scale",
    "evaluate.flip": "evaluate.flip_test",
    "evaluate.window": "evaluate.crop_size",
    "slurm.gpus_per_node": "slurm.gpus slurm.gres",
    "slurm.memory": "slurm.mem",
    "slurm.tasks_per_node": "slurm.ntasks_per_node slurm.ntasks",
    "slurm.cpus_per_gpu": "cpus_per_task",
    "slurm.partition": "slurm.queue",
    "slurm.exclude": "slurm.exclude_nodes",
    "slurm.extra": "slurm.nodelist slurm.exclusive slurm.additional_parameters slurm.mail_user slurm.comment",
    "slurm.setup": "slurm.modules",
})  # fmt: skip

_RESUME = "`phalanx resume RUN` resumes a run; `phalanx train` does so too where there is a run of that name."
_RANKS = "`phalanx train --nproc N` sets the processes on this machine, slurm.gpus_per_node and slurm.nodes those of a job."
_COMPUTED = "It follows from train.global_batch, train.micro_batch and the number of ranks."

# Names of settings without a key, and what to use instead.
ELSEWHERE = {word: sentence for sentence, words in {
    _RESUME: "resume resume_from resume_from_checkpoint ckpt_path auto_resume",
    _RANKS: "devices gpus num_gpus n_gpu num_processes nproc nproc_per_node world_size num_nodes",
    "Launchers set it for each rank: remove it.": "local_rank",
    "An evaluation takes micro-batches of train.micro_batch samples.":
        "per_device_eval_batch_size eval_batch_size val_batch_size test_batch_size evaluate.batch_size",
    _COMPUTED:
        "accumulative_counts gradient_accumulation_steps gradient_accumulation accumulate_grad_batches accumulate "
        "accum_iter grad_accum_steps",
    "It is not needed: parameters that no loss reaches are found and named before the first step.": "find_unused_parameters",
    "It is not needed.": "static_graph",
    "Nothing is dropped: a batch may reach into the next epoch.": "drop_last",
    "Training is always shuffled, by seed.": "shuffle",
    "It is on where there are GPUs.": "pin_memory",
    "Loader processes always stay.": "persistent_workers",
    "It is not available; a smaller train.micro_batch (another experiment), fsdp or zero3 save memory.":
        "gradient_checkpointing grad_checkpointing",
    "It is on unless train.deterministic=true, or image sizes vary.": "benchmark",
}.items() for word in words.split()}  # fmt: skip

VALUES = {key: _by_word(table) for key, table in {
    "dist.precision": {
        "bf16 fp16": "amp mixed auto true",
        "fp16": "o1 half 16 float16 f16 16_mixed 16_true torch.float16",
        "bf16": "bfloat16 torch.bfloat16 bf16_mixed bf16_true bf",
        "fp32": "32 float32 f32 full single 32_true no none false",
        "fp64": "64 64_true float64 double",
    },
    "dist.strategy": {
        "zero1 zero2 zero3": "deepspeed zero",
        "zero1": "deepspeed_stage_1",
        "zero2": "deepspeed_stage_2 stage2",
        "zero3": "deepspeed_stage_3 stage3",
        "fsdp": "fsdp_full_shard fsdp1 fsdp2 full_shard fully_shard",
        "hsdp": "hybrid_shard",
        "ddp":
            "dp data_parallel dataparallel distributeddataparallel distributed ddp_spawn ddp_fork ddp_notebook "
            "ddp_find_unused_parameters_true multi_gpu auto",
        "single": "none no single_device",
    },
    "dist.sync_bn": {
        "all": "true yes on",
        "off": "false no none",
    },
    "dist.device": {
        "cuda": "gpu cuda:0 nvidia 0",
    },
    "dist.reduce": {
        "exact": "deterministic bitwise",
        "fast": "mean sum",
    },
    "optim.name": {
        "adam": "adam fusedadam_l2",
        "adamw": "adam_w adamw_torch adamw_torch_fused fusedadam",
        "sgd": "momentum nesterov",
        "timm/lamb": "lamb fusedlamb",
        "timm/lars": "lars larc",
        "timm/lion": "lion",
        "timm/adan": "adan",
        "timm/adopt": "adopt",
        "timm/adamp": "adamp",
        "timm/sgdp": "sgdp",
        "timm/nadamw": "nadamw",
    },
    "schedule.name": {
        "cosine": "cosinelr warmup_cosine cosineannealinglr cosine_annealing cosineannealing cosine_with_warmup "
            "linearwarmupcosineannealinglr cos",
        "polynomial": "poly polylr polynomiallr",
        "linear": "linearlr linear_with_warmup",
        "step": "steplr",
        "multistep": "multisteplr warmupmultisteplr",
        "exponential": "exp exponentiallr",
        "one_cycle": "onecycle onecyclelr",
        "plateau": "reducelronplateau reduce_lr_on_plateau",
        "constant": "none constant_with_warmup constantlr",
    },
    "loss.name": {
        "cross_entropy": "ce crossentropy crossentropyloss cross_entropy_loss softmax nll",
        "bce": "bcewithlogits bcewithlogitsloss binary_cross_entropy",
        "focal": "focal_loss focalloss",
        "dice": "dice_loss diceloss",
        "mse": "l2 mseloss",
        "l1": "mae l1loss",
    },
    "track.wandb": {
        "online": "true yes on",
        "off": "false no none disabled",
        "offline": "dryrun",
    },
    "checkpoint.best_mode": {
        "max": "maximize higher",
        "min": "minimize lower",
    },
    "data.mode": {
        "grey": "l gray grayscale greyscale",
        "rgb": "bgr color colour",
    },
    "data.fit": {
        "stretch": "resize squash",
        "pad": "letterbox",
        "crop": "center_crop centre_crop",
        "short_side": "keep_ratio shortest_edge",
    },
    "data.sampling": {
        "class_balanced": "balanced weighted oversample weighted_random weightedrandomsampler repeat_factor",
        "natural": "random",
    },
    "data.on_error": {
        "skip": "ignore warn drop",
        "fail": "raise stop error abort",
    },
    "data.transform_on": {
        "device": "gpu cuda",
        "workers": "cpu",
    },
    "evaluate.size": {
        "original": "native full",
    },
    "task.name": {
        "classification": "classify cls classifier image_classification multilabel multi_label",
        "segmentation": "segment seg semantic semantic_segmentation semseg",
        "detection": "detect det object_detection bbox",
        "instance": "instance_segmentation instance_seg segm instances",
    },
    "data.name": {
        "image_folder": "imagefolder folder imagenet imagenet1k",
        "list": "csv",
        "coco": "cocodataset mscoco coco2017 cocodetection",
        "yolo": "coco128 ultralytics yolov5 yolov8 roboflow",
        "voc": "voc2007 pascalvoc pascal pascal_voc voc2012 vocsegmentation vocdetection",
        "masks": "camvid",
        "ade20k": "ade ade20kdataset",
        "cityscapes": "cityscapesdataset",
        "fashion_mnist": "fashionmnist",
        "cifar10 cifar100": "cifar",
        "cifar10": "cifar_10",
        "cifar100": "cifar_100",
    },
    "model.name": {
        "maskrcnn_resnet50_fpn mask_rcnn": "mask_rcnn_r50_fpn mask_rcnn_r_50_fpn_3x",
        "mask_rcnn": "maskrcnn",
        "faster_rcnn": "fasterrcnn",
        "fcos_resnet50_fpn": "fcos_r50",
        "retinanet": "retina_net",
        "unetpp": "unet++ unetplusplus nested_unet",
        "attention_unet": "attunet",
        "deeplabv3plus": "deeplabv3+ deeplabv3p deeplabv3_plus",
        "deeplabv3plus deeplabv3": "deeplab",
        "resnet50": "r50",
        "vit_b_16": "vit vit_b16",
        "swin_t": "swin swin_tiny",
        "convnext_tiny": "convnext convnext_t",
        "yolov8n yolov8s": "yolov8",
        "yolov5n yolov5s": "yolov5",
        "yolox_s yolox_m": "yolox",
        "yolov8n yolov5s yolox_s": "yolo",
        "inception_v3": "inception",
    },
}.items()}  # fmt: skip

# Unavailable settings, and the alternatives.
_NOT_HERE = {
    ("dist.device", "Phalanx trains on CUDA devices and on the CPU."): "tpu npu xpu mps hpu xla rocm",
    ("dist.precision", "8 bits are not available."): "fp8 float8 int8 transformer_engine",
    ("schedule.name", "Use step with schedule.gamma for a decay in steps, or cosine or polynomial for a smooth one."):
        "inverse_sqrt",
}  # fmt: skip

VALUE_NOTES = {(key, word): note for (key, note), words in _NOT_HERE.items() for word in words.split()} | {
    ("schedule.name", "cosine_with_restarts"): "cosine is available without restarts.",
    ("schedule.name", "cosineannealingwarmrestarts"): "cosine is available without restarts.",
    ("data.mean", "imagenet"): "ImageNet's is [0.485, 0.456, 0.406], and is taken for files where nothing is set.",
    ("data.std", "imagenet"): "ImageNet's is [0.229, 0.224, 0.225], and is taken for files where nothing is set.",
    ("dist.strategy", "auto"): "The number of ranks is set by --nproc.",
    ("data.name", "imagenet"): "Its layout is that of folders, with data.train_split=train and data.val_split=val.",
    ("optim.name", "nesterov"): "Set optim.nesterov=true with it.",
}

# Networks with a fixed backbone, and the same networks with any.
ON_ANY_BACKBONE = {
    "fcn_resnet50": "fcn",
    "fcn_resnet101": "fcn",
    "deeplabv3_resnet50": "deeplabv3",
    "deeplabv3_resnet101": "deeplabv3",
    "fasterrcnn_resnet50_fpn": "faster_rcnn",
    "fasterrcnn_resnet50_fpn_v2": "faster_rcnn",
    "maskrcnn_resnet50_fpn": "mask_rcnn",
    "maskrcnn_resnet50_fpn_v2": "mask_rcnn",
    "retinanet_resnet50_fpn": "retinanet",
    "fcos_resnet50_fpn": "fcos",
}
# Names that include a backbone's, and the intended network.
WITH_BACKBONE = {
    "maskrcnn": "mask_rcnn",
    "mask_rcnn": "mask_rcnn",
    "fasterrcnn": "faster_rcnn",
    "faster_rcnn": "faster_rcnn",
    "retinanet": "retinanet",
    "fcos": "fcos",
    "fcn": "fcn",
    "unet": "unet",
    "pspnet": "pspnet",
    "deeplabv3": "deeplabv3",
    "deeplabv3plus": "deeplabv3plus",
    "deeplabv3+": "deeplabv3plus",
}

# The first letters of families of networks that timm has and Phalanx does not.
TIMM = (
    "efficientnet", "tf_efficientnet", "mobilenet", "regnet", "densenet", "deit", "beit", "resnest", "convnextv2", "swinv2",
    "maxvit", "coatnet", "ghostnet", "mixer", "repvgg", "seresne", "eva", "xcit", "hrnet", "mnasnet", "xception", "dpn",
    "efficientvit", "efficientformer", "edgenext", "mobilevit", "poolformer", "cait", "levit", "volo", "pvt", "nfnet", "dla",
    "focalnet", "davit", "hiera", "fastvit", "repvit", "inception_resnet", "inception_v4", "vit_tiny",
    "vit_small", "vit_base", "vit_large", "vit_huge", "swin_tiny_", "swin_small_", "swin_base_", "swin_large_", "resnet26",
    "resnetv2", "resnetrs", "ecaresnet", "skresne", "cspresnet", "cspdarknet", "darknet53", "rexnet", "selecsls", "tinynet",
    "lcnet", "convnext_pico", "convnext_nano", "convnext_femto", "convnext_atto", "convnext_xlarge",
)  # fmt: skip
