"""The stages: what differs between them is which parameters train, the batch, and the loss."""

from latentum_jax.train.stages.align import align_dynamics_stage, align_stage
from latentum_jax.train.stages.decoder import pixel_decoder_stage, vae_stage
from latentum_jax.train.stages.latentumm import latentumm_stage
from latentum_jax.train.stages.mbaq import mbaq_stage
from latentum_jax.train.stages.mome import mome_stage
from latentum_jax.train.stages.sft import sft_stage
from latentum_jax.train.stages.vlm import vlm_stage

STAGES = {
    "vlm": vlm_stage,
    "mbaq": mbaq_stage,
    "mome": mome_stage,
    "sft": sft_stage,
    "latentumm": latentumm_stage,
}
DECODER_STAGES = {"vae": vae_stage, "pixel_decoder": pixel_decoder_stage}
ALIGNER_STAGES = {"align": align_stage, "align_dynamics": align_dynamics_stage}
