"""Causes that lie in the run itself: its code, configuration, data and checkpoints."""

from trainguard.crash_types.values import Cause, Verdict

CAUSES = (
    # Worker processes
    Cause(
        name="dataloader_shm",
        type="shared_memory",
        verdicts=(Verdict.FIX,),
        what="A data loader's worker died on a bus error because /dev/shm could not hold its batches.",
        steps=(
            "Look at the size and the use of /dev/shm: df -h /dev/shm.",
            "Remove what dead runs left there, after making sure that no process holds it (lsof /dev/shm).",
            "In a container raise it: --shm-size=16g or --ipc=host; in Kubernetes mount an emptyDir with medium "
            "Memory.",
            "Lower num_workers or prefetch_factor, or call "
            "torch.multiprocessing.set_sharing_strategy('file_system').",
        ),
        sources=("torch/utils/data/_utils/signal_handling.py", "docs.docker.com, docker run --shm-size"),
    ),
    Cause(
        name="dataloader_killed",
        type="multiprocessing_error",
        verdicts=(Verdict.RESTART,),
        what="A data loader's worker was killed by a signal, most often for memory.",
        steps=(
            "Ask the kernel log for an out-of-memory kill of process {pid}.",
            "Ask the kernel log for an out-of-memory kill at that time: journalctl -k -g 'Killed process'.",
            "Restart; if it comes back, lower num_workers and prefetch_factor.",
            "Keep large Python lists out of the dataset: each worker's copy grows as it is read.",
        ),
        sources=("torch/utils/data/_utils/signal_handling.py",),
    ),
    Cause(
        name="dataloader_exited",
        type="multiprocessing_error",
        verdicts=(Verdict.EARLIER,),
        what="A data loader's worker is gone; the message of the main process does not know why.",
        steps=(
            "Look for the worker's own traceback or signal above this line.",
            "Run once with num_workers=0: the same failure then shows its own trace.",
        ),
        sources=("torch/utils/data/dataloader.py",),
    ),
    Cause(
        name="fork_cuda",
        type="multiprocessing_error",
        verdicts=(Verdict.PARK,),
        what="A forked worker used CUDA after its parent had already initialised it.",
        steps=(
            "Keep CUDA out of the dataset and of collate_fn: move tensors to the GPU in the training loop.",
            "Start workers with multiprocessing_context='spawn'.",
            "Do not touch CUDA before the workers start.",
        ),
        sources=("torch/cuda/__init__.py", "docs.pytorch.org, notes/multiprocessing"),
    ),
    Cause(
        name="spawn_guard",
        type="multiprocessing_error",
        verdicts=(Verdict.PARK,),
        what="A spawned worker ran the main script again, since its start is not guarded.",
        steps=(
            "Put the script's start under: if __name__ == '__main__':",
            "Keep process creation out of modules that are only imported.",
        ),
        sources=("docs.python.org, multiprocessing, programming guidelines",),
    ),
    Cause(
        name="cannot_pickle",
        type="multiprocessing_error",
        verdicts=(Verdict.PARK,),
        what="Something handed to a worker process cannot be pickled.",
        steps=(
            "Move {key} to the top level of a module: lambdas and local functions cannot be sent to a worker.",
            "Move {object} to the top level of a module: lambdas and local functions cannot be sent to a worker.",
            "Open files, locks and connections in the worker (worker_init_fn) and not in the dataset's "
            "__init__.",
            "Run with num_workers=0, or with the fork start method, to see what is at fault.",
        ),
        sources=("docs.python.org, pickle, what can be pickled",),
    ),
    Cause(
        name="child_failed_summary",
        type=None,
        verdicts=(Verdict.EARLIER,),
        what="A launcher reports that one of its processes failed; it repeats that process and does not know why.",
        steps=(
            "Look for what rank {rank} itself printed before this.",
            "Look for what process {pid} itself printed before this.",
            "Decorate the entry point with torch.distributed.elastic's @record, so that the next summary carries "
            "the trace.",
        ),
        sources=("torch/distributed/elastic/multiprocessing/errors", "deepspeed/launcher/launch.py"),
    ),
    # Numbers
    Cause(
        name="nan_loss",
        type="numerical",
        verdicts=(
            Verdict.FIX,
            Verdict.PARK,
        ),
        what="The loss or a gradient is no longer a finite number.",
        steps=(
            "Go back to a checkpoint from well before the first bad step: a later one may hold the bad weights.",
            "Look at batch {batch}, the first bad one.",
            "Clip the gradients, lower the learning rate or lengthen the warm-up.",
            "Prefer bfloat16 to float16; with float16 raise the initial loss scale's window.",
            "Check the inputs for values that are not finite, and for batches in which every label is masked.",
            "Find the operation with torch.autograd.set_detect_anomaly(True); {key} is where it showed.",
            "Find the operation with torch.autograd.set_detect_anomaly(True).",
        ),
        sources=("torch/csrc/autograd/python_anomaly_mode.cpp", "deepspeed/runtime/fp16/loss_scaler.py"),
    ),
    Cause(
        name="loss_spike",
        type=None,
        verdicts=(Verdict.EARLIER,),
        what="The loss jumped far above its recent values but is still a number.",
        steps=(
            "Watch whether it comes down again within some hundred steps.",
            "If not, go back to the checkpoint before the jump and skip the batches in which it came.",
            "Lower the learning rate or the limit for gradient clipping.",
        ),
    ),
    Cause(
        name="loss_zero_flat",
        type=None,
        verdicts=(Verdict.EARLIER,),
        what="The loss is exactly zero for many steps: nothing is learned.",
        steps=(
            "Compare the weights of the checkpoint with its predecessor's: overwritten weights show as NaN.",
            "Look whether all labels are masked, for example by a wrong chat template or a too short cut-off.",
        ),
    ),
    # Checkpoints
    Cause(
        name="ckpt_corrupt_safetensors",
        type="checkpoint_corrupt",
        verdicts=(Verdict.FIX,),
        what="A safetensors file is cut off or overwritten: its header and its size do not agree.",
        steps=(
            "Set the newest checkpoint aside by renaming it, and resume from the one before.",
            "Make sure that there is room for a whole checkpoint: a full disk cuts files off.",
            "If the file was downloaded, remove it from the cache and fetch it again; a file of about 130 bytes "
            "is a Git LFS pointer.",
        ),
        sources=("safetensors/src/tensor.rs",),
    ),
    Cause(
        name="ckpt_corrupt_zip",
        type="checkpoint_corrupt",
        verdicts=(Verdict.FIX,),
        what="A file written by torch.save is cut off or damaged: it is no longer a whole zip archive.",
        steps=(
            "Set the newest checkpoint aside by renaming it, and resume from the one before.",
            "Find the damaged file: python -m zipfile -t FILE.",
            "Make sure that there is room for a whole checkpoint: a full disk cuts files off.",
            "Let only one rank write or download a file that several read.",
        ),
        sources=("caffe2/serialize/inline_container.cc",),
    ),
    Cause(
        name="ckpt_unreadable",
        type="checkpoint_corrupt",
        verdicts=(Verdict.FIX,),
        what="A pickled file ends too early or does not begin as a pickle does.",
        steps=(
            "Look at the file's size and first bytes: an empty file was cut off, one that begins with < is a web "
            "page, one that begins with version is a Git LFS pointer.",
            "Set the newest checkpoint aside by renaming it, and resume from the one before.",
            "Fetch the file again if it was downloaded.",
        ),
        sources=("CPython Modules/_pickle.c", "torch/serialization.py"),
    ),
    Cause(
        name="ckpt_missing_file",
        type="checkpoint_corrupt",
        verdicts=(Verdict.FIX,),
        what="A checkpoint lacks a file that resuming needs, so its saving was never completed.",
        steps=(
            "List the folder {path} and compare it with an older checkpoint.",
            "Set the incomplete checkpoint aside by renaming it, and resume from the one before.",
            "If no checkpoint is whole, start without resume_from_checkpoint.",
        ),
        sources=("transformers/trainer.py", "torch/distributed/checkpoint/filesystem.py"),
    ),
    Cause(
        name="ckpt_mismatch",
        type="model_load_error",
        verdicts=(Verdict.PARK,),
        what="The saved weights or optimizer states do not fit the model that is being built.",
        steps=(
            "Compare {key}: the checkpoint has the shape [{found}], the model [{expected}].",
            "Compare the model's configuration with the one saved beside the checkpoint.",
            "Keys that begin with module. or _orig_mod. come from DistributedDataParallel or torch.compile: strip "
            "the prefix.",
            "After a change of the vocabulary resize the embeddings before loading.",
            "If parts are meant to differ, load with strict=False or ignore_mismatched_sizes=True.",
        ),
        sources=("torch/nn/modules/module.py, load_state_dict",),
    ),
    # The training code
    Cause(
        name="shape_mismatch",
        type="runtime_error",
        verdicts=(Verdict.PARK,),
        what="Two tensors that meet in one operation have shapes that do not fit.",
        steps=(
            "Follow {found} against {expected} back to the layer or batch that makes it.",
            "Check the last, smaller batch: drop_last=True shows whether it is the cause.",
            "Check the model's sizes against the data's: channels, classes, vocabulary, sequence length.",
        ),
        sources=("ATen/native",),
    ),
    Cause(
        name="collate_mismatch",
        type="runtime_error",
        verdicts=(Verdict.PARK,),
        what="The samples of one batch differ in shape, and the default collation cannot stack them.",
        steps=(
            "Look at sample {sample} of the batch: it is [{found}] where the first is [{expected}].",
            "Convert images to one mode and size, pad sequences, or give the loader a collate_fn.",
        ),
        sources=("torch/utils/data/_utils/collate.py",),
    ),
    Cause(
        name="device_mismatch",
        type="runtime_error",
        verdicts=(Verdict.PARK,),
        what="One operation got tensors that live on different devices.",
        steps=(
            "Find the tensor on {found} that meets one on {expected}, and move it with .to(tensor.device).",
            "Register constants as buffers, so that they move with the model.",
            "With device_map='auto', do not move the inputs by hand.",
        ),
        sources=("ATen/TensorIterator.cpp",),
    ),
    Cause(
        name="dtype_mismatch",
        type="runtime_error",
        verdicts=(Verdict.PARK,),
        what="One operation got tensors of different number types.",
        steps=(
            "Cast {found} to {expected} where the two meet.",
            "Run the forward pass under torch.autocast, evaluation included.",
            "Check that adapters and new layers were made in the type of the base model.",
        ),
        sources=("ATen/native",),
    ),
    Cause(
        name="no_gradient",
        type="runtime_error",
        verdicts=(Verdict.PARK,),
        what="The loss does not depend on any parameter that is being trained.",
        steps=(
            "Look whether all parameters are frozen, or the forward pass runs under no_grad or .detach().",
            "With gradient checkpointing and adapters call model.enable_input_require_grads().",
        ),
        sources=("torch/csrc/autograd",),
    ),
    Cause(
        name="graph_freed",
        type="runtime_error",
        verdicts=(Verdict.PARK,),
        what="A graph was walked backward twice after its values had been freed.",
        steps=(
            "Detach what is carried from one step to the next, such as hidden states.",
            "Add the losses up and call backward once, or pass retain_graph=True.",
        ),
        sources=("torch/csrc/autograd/saved_variable.cpp",),
    ),
    Cause(
        name="inplace_modification",
        type="runtime_error",
        verdicts=(Verdict.PARK,),
        what="A value that the backward pass needs was overwritten in place.",
        steps=(
            "Replace in-place operations (+=, relu_, index assignment) on the way to the loss.",
            "Find it with torch.autograd.set_detect_anomaly(True).",
        ),
        sources=("torch/csrc/autograd/saved_variable.cpp",),
    ),
    Cause(
        name="ddp_unused_parameters",
        type="runtime_error",
        verdicts=(Verdict.PARK,),
        what="DistributedDataParallel waits for gradients of parameters that did not take part in the loss.",
        steps=(
            "Set TORCH_DISTRIBUTED_DEBUG=DETAIL: the message then names the parameters.",
            "Pass find_unused_parameters=True, or freeze what is not used.",
            "With gradient checkpointing use use_reentrant=False.",
        ),
        sources=("torch/csrc/distributed/c10d/reducer.cpp",),
    ),
    # Configuration
    Cause(
        name="config_invalid",
        type="config_error",
        verdicts=(Verdict.PARK,),
        what="The command line or a configuration file is not what the program accepts.",
        steps=(
            "Correct {argument} on the command line.",
            "Correct the setting {key}.",
            "Look at {path}, line {line}, column {column}.",
            "Correct {found}, where {expected} was expected.",
            "Compare with the program's --help of the installed version: options are renamed between versions.",
        ),
        sources=("docs.python.org, argparse", "hydra.cc, override grammar"),
    ),
    Cause(
        name="rank_missing",
        type="config_error",
        verdicts=(Verdict.PARK,),
        what="The script expects the environment of a launcher and was started without one.",
        steps=(
            "Start it through torchrun, accelerate launch, deepspeed or srun, which set {key}.",
            "For a single process set RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=localhost MASTER_PORT=29500.",
        ),
        sources=("torch/distributed/rendezvous.py",),
    ),
    Cause(
        name="file_missing",
        type="file_not_found",
        verdicts=(Verdict.PARK,),
        what="A file or folder that the run needs is not there.",
        steps=(
            "Look for {path} as the user of the run and from its working directory.",
            "If it lies on a network mount, look whether that is mounted: mount, df; then a restart helps.",
            "Create the folder before writing to it.",
        ),
        sources=("errno(3), ENOENT",),
    ),
    Cause(
        name="import_abi",
        type="import_error",
        verdicts=(Verdict.PARK,),
        what="A package is installed, but in a version or a build that does not fit the others.",
        steps=(
            "Look which {module} is loaded: a file of the same name in the working directory hides the package.",
            "Look which versions are installed: pip show {package}.",
            "Build compiled extensions anew against the installed torch: pip install --no-build-isolation "
            "--force-reinstall.",
            "Go back to the last set of versions that worked.",
        ),
        sources=("docs.python.org, importlib", "glibc elf/dl-lookup.c"),
    ),
    Cause(
        name="module_missing",
        type="import_error",
        verdicts=(Verdict.PARK,),
        what="A module is not installed in the environment that the run uses, or not on its path.",
        steps=(
            "Make sure that the right environment is active: which python.",
            "Install it: python -m pip install {package}.",
            "If {module} is the project's own, start from the project's root or set PYTHONPATH.",
        ),
        sources=("docs.python.org, importlib",),
    ),
    Cause(
        name="library_missing",
        type="import_error",
        verdicts=(Verdict.PARK,),
        what="The dynamic linker does not find a shared library, or finds one that is too old.",
        steps=(
            "Look where {key} is: ldconfig -p, find / -name.",
            "Load the module or add the folder to LD_LIBRARY_PATH in the environment of the run.",
            "For GLIBC and GLIBCXX use packages built for this system, or a newer container image.",
        ),
        sources=("ld.so(8)", "glibc elf/dl-load.c"),
    ),
    # Data
    Cause(
        name="data_bad_sample",
        type="data_error",
        verdicts=(Verdict.FIX,),
        what="A sample or a file of the dataset cannot be read.",
        steps=(
            "Look at {sample}.",
            "Look at {path}.",
            "Look at line {line}, column {column} of the file being read.",
            "Remove or repair it; compare the size and checksum with the source.",
            "Remove a half-written dataset cache and let it be made anew.",
            "Let the dataset skip and count what it cannot read.",
        ),
        sources=("huggingface.co/docs/datasets", "arrow.apache.org"),
    ),
    # The network
    Cause(
        name="hub_network",
        type="connection_error",
        verdicts=(
            Verdict.RESTART,
            Verdict.FIX,
        ),
        what="A remote service did not answer, or answered with a passing failure.",
        steps=(
            "Restart after a pause: {status} mostly passes.",
            "Restart after a pause.",
            "Try to reach {host} from this machine.",
            "If everything is in the cache, set HF_HUB_OFFLINE=1; else download before training.",
            "Let one rank download while the others wait.",
        ),
        sources=("huggingface.co/docs/huggingface_hub, environment variables",),
    ),
    Cause(
        name="hub_missing",
        type="file_not_found",
        verdicts=(Verdict.PARK,),
        what="The hub does not know the repository, revision or file, or hides it without a login.",
        steps=(
            "Check the spelling of {path}; if a local folder was meant, it does not exist.",
            "Check {url}.",
            "A private repository looks missing without a token: hf auth login.",
        ),
        sources=("huggingface_hub/utils/_http.py",),
    ),
    Cause(
        name="gated_repository",
        type="permission_error",
        verdicts=(Verdict.PARK,),
        what="The hub refuses access: the repository is gated, or the token is missing or not allowed.",
        steps=(
            "Open {url} in a browser and accept the conditions with the account of the token.",
            "Log in on this machine: hf auth login, or set HF_TOKEN in the environment of the run.",
            "Check that the token may read gated repositories.",
        ),
        sources=("huggingface.co/docs/hub, gated models",),
    ),
    Cause(
        name="tracker_network",
        type="connection_error",
        verdicts=(
            Verdict.RESTART,
            Verdict.FIX,
        ),
        what="The experiment tracker could not be reached.",
        steps=(
            "Restart after a pause.",
            "Train without the network: WANDB_MODE=offline, and wandb sync afterwards.",
            "Give it more time: WANDB_INIT_TIMEOUT=300.",
        ),
        sources=("docs.wandb.ai, environment variables",),
    ),
    Cause(
        name="tracker_login",
        type="permission_error",
        verdicts=(Verdict.PARK,),
        what="The experiment tracker has no key, and there is no terminal to ask for one.",
        steps=(
            "Log in once on this machine (wandb login), or set WANDB_API_KEY in the environment of the run.",
            "Train without it: WANDB_MODE=offline, or report_to='none'.",
        ),
        sources=("wandb/sdk/wandb_login.py",),
    ),
    # Compilers
    Cause(
        name="compile_fail",
        type="compile_error",
        verdicts=(
            Verdict.FIX,
            Verdict.PARK,
        ),
        what="A graph or kernel compiler could not translate the model for this device.",
        steps=(
            "Empty the compiler's caches once (TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR) and restart.",
            "Run once without torch.compile (TORCHDYNAMO_DISABLE=1) to see the error of the model itself.",
            "Check that triton, torch and the GPU's architecture fit together.",
            "Exclude the function with torch.compiler.disable.",
        ),
        sources=("docs.pytorch.org, torch.compiler troubleshooting",),
    ),
    Cause(
        name="build_failed",
        type="compile_error",
        verdicts=(Verdict.PARK,),
        what="A compiler or linker failed while an extension was being built.",
        steps=(
            "Read the compiler's first error above the summary.",
            "Check nvcc --version against torch.version.cuda, and that CUDA_HOME points to that toolkit.",
            "Check that a C++ compiler and Python's headers are installed (gcc, python3-dev); {file} is missing.",
            "Check that a C++ compiler, ninja and Python's headers are installed (gcc, python3-dev).",
            "Look for a ready-made wheel of {module} for these versions of torch, CUDA and Python.",
        ),
        sources=("torch/utils/cpp_extension.py", "deepspeed.ai, installation"),
    ),
)
