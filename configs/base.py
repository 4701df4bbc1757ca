"""What all recipes share; every value can be overridden with --config.NAME=VALUE."""

from ml_collections import ConfigDict

from latentum_jax.config import AlignerConfig, ChatConfig, DecoderConfig, LatentUMConfig


def base(model: LatentUMConfig, decoder: DecoderConfig | None = None) -> ConfigDict:
    """A stage with no data yet."""
    return ConfigDict(
        {
            "model": model.to_dict(),
            "decoder": (decoder or DecoderConfig()).to_dict(),
            "aligner": AlignerConfig().to_dict(),
            "latentum": "",  # pixel_decoder: the model whose z_q is drawn
            "tokenizer": "",
            "chat": vars(ChatConfig()) | {},
            "stage": "",
            "chain": (),
            "links": {},
            "init_from": "",
            "seed": 0,
            "steps": 0,
            "epochs": 0,  # align, align_dynamics: passes over the embeddings, where steps is 0
            "checkpoint_every": 500,
            "keep": 2,
            "wandb": "",  # a project's name
            "profile": (),  # (10, 13) traces these steps into workdir/profile
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},  # -1: devices left over
            "dtype": "float32",  # of activations, and of parameters that do not train
            "remat": "none",  # computed again in the backward pass: layers, products or none
            "accumulate": 1,  # parts that a batch is taken in
            "loss_chunk": 0,  # tokens whose logits are made at once, 0 for all
            "max_skipped": 20,  # steps whose loss or gradient was not finite
            "ema": 0.0,
            "optimizer": {
                "learning_rate": 1e-3,
                "warmup": 200,
                "end_share": 0.02,
                "weight_decay": 0.01,
                "clip": 1.0,
                "b1": 0.9,
                "b2": 0.98,
            },
            "lora": {  # low-rank corrections of kernels train, and nothing else
                "rank": 0,  # 0: off
                "alpha": 16.0,  # corrections are scaled by alpha / rank
                "targets": "",  # regular expression over the paths of kernels that the stage trains
            },
            "data": {
                "source": "",
                "path": "",
                "root": "",  # vqa: folder of the pictures; tfds: of the data sets
                "split": "train",  # tfds
                "embeddings": "",  # latentumm: of the samples of a jsonl, by their ids
                "cache": "",  # for indices, where nothing can be written beside the data
                "made_by": "",  # records: the fingerprint that they are expected to have
                "packed": False,  # several samples to a row
                "threads": 0,  # that read and decode; 0: one a core
                "workers": 0,  # frozenlake, navigation: processes that make batches; 0: a thread
                "max_bad": 100,  # broken samples that are borne
                "rows": 0,
                "length": 0,
                "images": 0,
                "targets": 0,
                "stride": 1,  # recon, navigation: frames from one of a row to its next
                "levels": (3, 4, 5, 6),
                "weights": (0.1, 0.2, 0.3, 0.4),
                "harder": 0.4,
                "buckets": (),
            },
            "grpo": {
                "task": "draw",  # pictures of captions; plan: mazes, move by move
                "group": 16,  # rollouts of a prompt
                "temperature": 0.9,
                "top_k": 0,
                "top_p": 0.95,
                "epochs": 1,  # how often a batch is learnt from
                "clip": 0.1,
                "beta": 0.005,  # of the KL to the policy as it was; 0 keeps no reference
                "truncate": 2.0,  # what importance weights of the sampler are cut at
                "trainable": r"^language/layers/gen/|^visual_projector/|^head/",
                "rewards": {"self": 1.0, "pixel": 0.0, "maze": 0.0},  # weights
                "ask": {  # the self-reward's questions
                    "temperature": 1.0,
                    "length": 512,  # tokens of a picture and its questions
                    "questions": 16,
                    "options": 11,
                    "cells": 8,  # of a maze that are asked about
                },
                "pixel": {"function": "", "decoder": "", "steps": 25},  # module:function
                "steps": 8,  # of a plan at most
                "moves": (1, 4),  # of the mazes to plan, along their shortest path
            },
            "objective": "kl",  # mbaq: kl, mse or cosine
            "condition_dropout": 0.1,  # of the rows that only draw
            "part": "joint",  # sft: joint, language or vision; pixel_decoder: context or all
            "kl_weight": 1e-4,  # vae
            "cut": "exclusive",  # sft: exclusive or inclusive
            "code_noise": 0.15,  # sft: of the codes shown in U
            "stale_tokens": 0.0,  # sft: of the tokens given to G, on average
            "alignment": {  # latentumm; align and align_dynamics have weights of their own
                "modal": 0.01,
                "target": 0.01,
                "task": 0.01,
                "generation": 0.0,  # align and align_dynamics alone
                "preference": 0.001,
                "rollouts": 2,
                "sigma": 0.05,
                "latent": "text",  # align, align_dynamics: text or fused
                "image": "sequence",  # latentumm: sequence or read
                "teacher": "none",  # latentumm: none or an aligner's folder
            },
        }
    )


def full_size(config: ConfigDict, stage: str) -> ConfigDict:
    """A stage at the published size: bf16, layers computed again in the backward pass."""
    config.stage = stage
    config.dtype, config.remat = "bfloat16", "layers"
    config.checkpoint_every = 1000
    config.optimizer.end_share = 0.1
    return config
