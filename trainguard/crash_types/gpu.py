"""Causes that lie in the GPUs, their driver, and the collectives between them."""

from trainguard.crash_types.values import Cause, Verdict

_XID = "NVIDIA Xid catalogue, docs.nvidia.com/deploy/xid-errors"
_MEMORY = "NVIDIA GPU memory error management, docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt"
_RUNTIME = "CUDA runtime API, cudaError_t"
_ALLOCATOR = "PyTorch notes on CUDA memory management"
_NCCL = "NCCL user guide: types, troubleshooting"
_WATCHDOG = "PyTorch ProcessGroupNCCL.cpp"
_ELASTIC = "PyTorch torch.distributed.elastic, TCPStore.cpp and socket.cpp"

CAUSES = (
    Cause(
        name="cuda_oom",
        type="cuda_oom",
        verdicts=(Verdict.RESTART, Verdict.FIX, Verdict.PARK),
        what="The run asked for more GPU memory than was left. At a fixed step it is the size of the work; "
        "at changing steps it is the longest batch, a leak, or a neighbour on the GPU.",
        steps=(
            "It asked for {tried} with {free} free of {total}: compare that with what one batch needs.",
            "Restart once; if it stops at the same step again, the batch there does not fit.",
            "Halve the batch per device and double the gradient accumulation: the result stays the same.",
            "Cap the sequence length or the image size: one long sample sets the peak.",
            "Turn on gradient checkpointing, and bfloat16 or float16 if the run is still in float32.",
            "Use a smaller evaluation batch, and keep no tensors with their graph (detach the loss before "
            "it is summed up).",
            "Shard optimizer and weights (FSDP, DeepSpeed ZeRO), or use a GPU with more memory.",
        ),
        sources=(_ALLOCATOR, "PyTorch CUDACachingAllocator.cpp"),
    ),
    Cause(
        name="cuda_oom_foreign",
        type="cuda_oom",
        verdicts=(Verdict.FIX,),
        what="Another process holds the memory on that GPU: an orphan of an earlier run, a notebook, or a "
        "second job.",
        steps=(
            "Process {foreign_pid} holds {foreign} on GPU {gpu}: find out whose it is before anything else.",
            "List the holders: nvidia-smi --query-compute-apps=pid,used_memory,name --format=csv",
            "If it is an orphan of this run, end it and wait until its memory is given back (up to a minute).",
            "If it belongs to somebody else, choose another GPU with CUDA_VISIBLE_DEVICES.",
            "If no process is listed and the memory stays taken, the GPU needs a reset.",
        ),
        sources=(_ALLOCATOR, "NVML nvmlDeviceGetComputeRunningProcesses"),
    ),
    Cause(
        name="cuda_oom_fragmentation",
        type="cuda_oom",
        verdicts=(Verdict.FIX,),
        what="PyTorch had reserved enough memory, but in pieces too small for the request.",
        steps=(
            "{unallocated} was reserved and unused while {tried} could not be had.",
            "Set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True and restart.",
            "If that is not supported here, set max_split_size_mb to about 128 in the same variable.",
            "Pad batches to a few fixed lengths, so that freed blocks fit again.",
        ),
        sources=(_ALLOCATOR,),
    ),
    Cause(
        name="cuda_oom_preallocated",
        type="cuda_oom",
        verdicts=(Verdict.FIX, Verdict.PARK),
        what="JAX or TensorFlow ran out of GPU memory. Both take most of the memory at start, so a second "
        "process on the same GPU finds none.",
        steps=(
            "It asked for {tried}.",
            "Look whether a second process shares the GPU: nvidia-smi",
            "For JAX set XLA_PYTHON_CLIENT_PREALLOCATE=false or a smaller XLA_PYTHON_CLIENT_MEM_FRACTION; for "
            "TensorFlow set TF_FORCE_GPU_ALLOW_GROWTH=true.",
            "Make the batch smaller, or shard the arrays over more devices.",
        ),
        sources=("JAX documentation: GPU memory allocation", "TensorFlow guide: limiting GPU memory growth"),
    ),
    Cause(
        name="cuda_illegal_access",
        type="cuda_error",
        verdicts=(Verdict.RESTART, Verdict.PARK),
        what="A kernel read or wrote outside its memory. The error shows at a later call, so the traceback "
        "seldom points at the kernel.",
        steps=(
            "Restart once from the last checkpoint.",
            "If it comes back at the same step, run that step with CUDA_LAUNCH_BLOCKING=1 to see the call.",
            "Suspect custom and fused kernels first (extensions, Triton, attention): turn them off in turn.",
            "Run the step under compute-sanitizer.",
            "If it wanders over steps and stays on one GPU, test that GPU: dcgmi diag -r 3",
        ),
        sources=(_RUNTIME, _XID),
    ),
    Cause(
        name="cuda_device_assert",
        type="cuda_error",
        verdicts=(Verdict.PARK,),
        what="A check inside a kernel failed, nearly always an index outside its range: a label not below the "
        "number of classes, a token not below the vocabulary, a position beyond the table.",
        steps=(
            "The failed check is {assertion}.",
            "Look at the batch of that step: the smallest and largest label, token and position.",
            "Compare the tokenizer's size with the embedding's, and the number of classes with the head's.",
            "Run the same batch on the CPU: it raises an IndexError with the value.",
        ),
        sources=(_RUNTIME, "PyTorch native/cuda kernels"),
    ),
    Cause(
        name="cuda_launch_failure",
        type="cuda_error",
        verdicts=(Verdict.RESTART, Verdict.REPAIR),
        what="A kernel ended on a fault that the driver could not name: a bad pointer, a fault in shared "
        "memory, or an unstable GPU.",
        steps=(
            "Restart once from the last checkpoint.",
            "Read the kernel log of that moment for an Xid: it names what the driver saw.",
            "If it comes back on the same GPU at other steps, leave out that GPU and test it: dcgmi diag -r 3",
            "If it comes back at the same step on any GPU, run the step with CUDA_LAUNCH_BLOCKING=1.",
        ),
        sources=(_RUNTIME, _XID),
    ),
    Cause(
        name="cuda_misaligned",
        type="cuda_error",
        verdicts=(Verdict.RESTART, Verdict.PARK),
        what="A kernel used an address that its data type does not allow: a wide load on a slice that does "
        "not begin at a whole vector, or a corrupted pointer.",
        steps=(
            "Restart once from the last checkpoint.",
            "If it comes back, turn off custom and fused kernels in turn, or pass them contiguous tensors.",
            "Run the step under compute-sanitizer.",
        ),
        sources=(_RUNTIME,),
    ),
    Cause(
        name="cuda_launch_timeout",
        type="cuda_error",
        verdicts=(Verdict.RESTART, Verdict.FIX),
        what="The driver ended a kernel that ran too long on a GPU that also drives a display.",
        steps=(
            "Train on a GPU without a display, or stop the graphical session.",
            "Make the single kernel shorter: a smaller batch or block.",
        ),
        sources=(_RUNTIME,),
    ),
    Cause(
        name="cuda_library_failed",
        type="cuda_error",
        verdicts=(Verdict.RESTART, Verdict.PARK),
        what="cuBLAS, cuDNN, cuFFT, cuSOLVER or cuSPARSE gave up inside a call. Often an earlier kernel broke "
        "the context, or memory had run out.",
        steps=(
            "Look for an earlier CUDA error or assertion: this call may only have met it.",
            "Watch the free GPU memory: near zero, treat it as out of memory.",
            "Run the step with CUDA_LAUNCH_BLOCKING=1 and print the shapes and types of the call.",
            "Check that the library loaded is the one the framework was built with: pip list | grep nvidia",
        ),
        sources=("NVIDIA cuBLAS and cuDNN documentation: status codes",),
    ),
    Cause(
        name="cuda_library_handle",
        type="cuda_error",
        verdicts=(Verdict.RESTART, Verdict.FIX),
        what="A CUDA library could not set itself up on the GPU: no memory left for its workspace, an earlier "
        "fault in the context, or libraries that do not belong together.",
        steps=(
            "Look at the free GPU memory first: these libraries take theirs outside the framework's pool.",
            "Look for an earlier CUDA error or assertion in this log.",
            "Make sure that LD_LIBRARY_PATH brings in no second cuDNN or cuBLAS.",
            "Check the driver against the CUDA version of the build: nvidia-smi",
        ),
        sources=("NVIDIA cuBLAS and cuDNN documentation: status codes",),
    ),
    Cause(
        name="cuda_bad_launch",
        type="cuda_error",
        verdicts=(Verdict.PARK,),
        what="A kernel was called with a grid, arguments or resources that this GPU does not accept; an empty "
        "or huge tensor is the usual reason.",
        steps=(
            "Run the step with CUDA_LAUNCH_BLOCKING=1 and print the shapes at that call: one is empty or huge.",
            "For a custom or Triton kernel lower the block size, the stages or the shared memory.",
        ),
        sources=(_RUNTIME,),
    ),
    Cause(
        name="cuda_invalid_device",
        type="cuda_error",
        verdicts=(Verdict.PARK,),
        what="The run names a GPU that it cannot see.",
        steps=(
            "Compare the number of processes per node with the GPUs seen: "
            "python -c 'import torch; print(torch.cuda.device_count())'",
            "Count device numbers from 0 within CUDA_VISIBLE_DEVICES, not as nvidia-smi lists them.",
            "If nvidia-smi shows fewer GPUs than the machine has, one is lost: read the kernel log.",
        ),
        sources=(_RUNTIME,),
    ),
    Cause(
        name="cuda_unknown",
        type="cuda_error",
        verdicts=(Verdict.RESTART, Verdict.REPAIR),
        what="The CUDA runtime reported an error that says no more by itself.",
        steps=(
            "Read the kernel log of that moment for an Xid.",
            "Restart once from the last checkpoint.",
            "If it comes back at once, reload the driver's modules or reboot the machine.",
        ),
        sources=(_RUNTIME,),
    ),
    Cause(
        name="gpu_memory_fault",
        type="cuda_error",
        verdicts=(Verdict.RESTART, Verdict.PARK),
        what="An AMD or Intel GPU met an address that is not mapped, or its queue was aborted.",
        steps=(
            "Restart once from the last checkpoint.",
            "If it comes back, run with AMD_SERIALIZE_KERNEL=3 (ROCm) to see the kernel.",
            "Check that the framework was built for this GPU's architecture and this ROCm or driver.",
            "Read the kernel log for amdgpu, xe or i915 lines of that moment.",
        ),
        sources=("ROCm documentation: debugging", "ROCr runtime: VM fault handler"),
    ),
    Cause(
        name="peer_gpu_access",
        type="cuda_error",
        verdicts=(Verdict.RESTART, Verdict.PARK),
        what="One GPU could not reach the memory of another.",
        steps=(
            "See which GPUs can reach each other: nvidia-smi topo -p2p r",
            "Set NCCL_P2P_DISABLE=1 and restart; it is slower and works.",
            "In a virtual machine or with IOMMU on, peer access needs ACS turned off.",
        ),
        sources=(_RUNTIME, _NCCL),
    ),
    Cause(
        name="previous_cuda_error",
        type=None,
        verdicts=(Verdict.EARLIER,),
        what="A call met an error that an earlier kernel had left behind.",
        steps=("Look for the first CUDA error before this line, on the same rank.",),
        sources=(_RUNTIME,),
    ),
    Cause(
        name="cuda_no_device",
        type="gpu_driver",
        verdicts=(Verdict.REPAIR,),
        what="The process sees no usable GPU: none is given to it, the driver is not loaded, or a GPU has "
        "dropped out.",
        steps=(
            "Ask the driver: nvidia-smi -L",
            "Look at CUDA_VISIBLE_DEVICES, and at the GPUs that the scheduler or container was given.",
            "If nvidia-smi fails too, load the driver (modprobe nvidia) or reboot.",
            "If a GPU is missing from the list, read the kernel log for Xid 79.",
        ),
        sources=(_RUNTIME, "PyTorch torch/cuda/__init__.py"),
    ),
    Cause(
        name="cuda_device_busy",
        type="gpu_driver",
        verdicts=(Verdict.RESTART, Verdict.FIX),
        what="Another process holds the GPU for itself (exclusive compute mode), or the GPU hangs in an "
        "earlier fault.",
        steps=(
            "See mode and holders: nvidia-smi -q -d COMPUTE,PIDS",
            "End the orphan, wait for it to be gone, and restart.",
            "If there is no holder, reset the GPU (nvidia-smi --gpu-reset) or reboot.",
        ),
        sources=(_RUNTIME,),
    ),
    Cause(
        name="cuda_driver_old",
        type="gpu_driver",
        verdicts=(Verdict.PARK,),
        what="Driver, CUDA build and GPU do not belong together: the driver is older than the build needs, or "
        "the build holds no code for this GPU.",
        steps=(
            "Compare: nvidia-smi shows the newest CUDA that the driver takes, torch.version.cuda the build's.",
            "For a missing kernel image compare torch.cuda.get_arch_list() with the GPU's compute capability.",
            "Install the framework's build that fits, or a newer driver.",
            "Build extensions again with TORCH_CUDA_ARCH_LIST set to this GPU.",
        ),
        sources=("NVIDIA CUDA compatibility, docs.nvidia.com/deploy/cuda-compatibility",),
    ),
    Cause(
        name="cuda_cpu_build",
        type="gpu_driver",
        verdicts=(Verdict.PARK,),
        what="The framework that is installed was built without GPU support, and the run asks for a GPU.",
        steps=(
            "See which build it is: python -c 'import torch; print(torch.__version__, torch.version.cuda)'",
            "Look which requirement pulled in the CPU build, and which environment the run really uses.",
            "Install the build for this machine's CUDA or ROCm, or let the run use the CPU.",
        ),
        sources=("PyTorch torch/cuda/__init__.py",),
    ),
    Cause(
        name="cuda_library_mismatch",
        type="gpu_driver",
        verdicts=(Verdict.PARK,),
        what="The CUDA library that was loaded is not the version that the framework was built with.",
        steps=(
            "Built against {built}, found {found}.",
            "Look what LD_LIBRARY_PATH brings in, and unset it for the run.",
            "Install again the nvidia packages that the framework asks for.",
        ),
        sources=("PyTorch torch/backends/cudnn/__init__.py", "TensorFlow cuda_dnn.cc"),
    ),
    Cause(
        name="nvml_mismatch",
        type="gpu_driver",
        verdicts=(Verdict.REPAIR,),
        what="The driver's library was upgraded while the old kernel module stays loaded. Work that already "
        "runs on the GPUs goes on; nothing new can start.",
        steps=(
            "Leave running jobs alone: they keep working until they end.",
            "Compare: cat /proc/driver/nvidia/version and dpkg -l 'nvidia-driver*' (or rpm -qa).",
            "When the GPUs are free, reload the modules or reboot.",
            "Take the driver out of unattended upgrades.",
        ),
        sources=("NVML return codes", "NVIDIA driver README"),
    ),
    Cause(
        name="gpu_container",
        type="gpu_driver",
        verdicts=(Verdict.REPAIR,),
        what="The container has lost its GPUs, or never got them.",
        steps=(
            "Try the same on the host: nvidia-smi",
            "If the host is well, start the container anew: a daemon reload can take its devices away.",
            "Check the NVIDIA container toolkit and the runtime's cgroup driver.",
        ),
        sources=("NVIDIA container toolkit: troubleshooting",),
    ),
    Cause(
        name="gpu_fabric",
        type="gpu_driver",
        verdicts=(Verdict.REPAIR,),
        what="The NVSwitch fabric is not up, so CUDA cannot start on this machine.",
        steps=(
            "See the service: systemctl status nvidia-fabricmanager",
            "Its version must equal the driver's; install the same one and start it.",
            "If it runs, look at the fabric state: nvidia-smi -q | grep -A3 Fabric",
        ),
        sources=("NVIDIA Fabric Manager user guide",),
    ),
    Cause(
        name="gpu_lost",
        type="gpu_hardware",
        verdicts=(Verdict.REPAIR,),
        what="The driver no longer reaches the GPU over PCIe. Power, heat, a loose card or a dying GPU do this.",
        steps=(
            "Take the machine out of use and reboot it; a cold start is surer than a warm one.",
            "Check the BMC's log for power and temperature at that moment.",
            "If it happens again: reseat the card, its power cables and risers.",
            "Then have the GPU replaced.",
        ),
        sources=(_XID,),
    ),
    Cause(
        name="gpu_ecc_dbe",
        type="gpu_hardware",
        verdicts=(Verdict.RESTART, Verdict.REPAIR),
        what="The GPU's memory had an error that it could detect and not correct.",
        steps=(
            "Stop what else runs on this GPU; its results cannot be trusted from this moment on.",
            "Look for a pending remap: nvidia-smi -q -d ECC,ROW_REMAPPER",
            "If one is pending, reset the GPU (nvidia-smi --gpu-reset) before the restart.",
            "Go back to a checkpoint from before the error.",
            "If it repeats on this GPU, run dcgmi diag -r 3 and have it replaced.",
        ),
        sources=(_XID, _MEMORY),
    ),
    Cause(
        name="gpu_ecc_contained",
        type="gpu_hardware",
        verdicts=(Verdict.RESTART,),
        what="A memory error that hit one process only; the GPU goes on.",
        steps=(
            "Restart the run from the last checkpoint: that is all the catalogue asks for.",
            "Reset the GPU at the next pause if a remap is pending: nvidia-smi -q -d ROW_REMAPPER",
            "Count these: many on one GPU foretell a failing memory.",
        ),
        sources=(_XID, _MEMORY),
    ),
    Cause(
        name="gpu_ecc_uncontained",
        type="gpu_hardware",
        verdicts=(Verdict.REPAIR,),
        what="A memory error that could not be kept to one process; all work on that GPU is suspect.",
        steps=(
            "Stop everything on this GPU.",
            "Reset it: nvidia-smi --gpu-reset; without MIG on an A100, reboot.",
            "Go back to a checkpoint from before the error.",
            "If it repeats, have the GPU replaced.",
        ),
        sources=(_XID, _MEMORY),
    ),
    Cause(
        name="gpu_row_remap_failed",
        type="gpu_hardware",
        verdicts=(Verdict.REPAIR,),
        what="A faulty memory row could not be replaced by a spare one.",
        steps=(
            "Stop everything on this GPU and reset it: nvidia-smi --gpu-reset",
            "Look at the remapper: nvidia-smi -q -d ROW_REMAPPER",
            "If it says that remapping failed, have the GPU replaced.",
        ),
        sources=(_XID, _MEMORY),
    ),
    Cause(
        name="gpu_row_remap_pending",
        type="gpu_hardware",
        verdicts=(Verdict.RESTART,),
        what="A faulty memory row is marked and will be replaced at the next reset. The run may go on.",
        steps=(
            "Go on, or restart if the run died.",
            "Reset the GPU at the next pause: nvidia-smi --gpu-reset",
        ),
        sources=(_XID, _MEMORY),
    ),
    Cause(
        name="gpu_nvlink",
        type="gpu_hardware",
        verdicts=(Verdict.RESTART, Verdict.REPAIR),
        what="A link between GPUs failed.",
        steps=(
            "Restart once; a single link error can pass.",
            "Read the links: nvidia-smi nvlink -s and nvidia-smi nvlink -e",
            "If it repeats, reset the GPUs of this machine, then look at bridges and seating.",
            "If the same link fails again, have GPU or baseboard replaced.",
        ),
        sources=(_XID, "NVIDIA Fabric Manager user guide"),
    ),
    Cause(
        name="gpu_gsp",
        type="gpu_hardware",
        verdicts=(Verdict.REPAIR,),
        what="The GPU's system processor no longer answers the driver.",
        steps=(
            "Reset the GPU (nvidia-smi --gpu-reset); if that hangs, reboot.",
            "If it repeats, install a newer driver.",
            "As a last resort turn the GSP firmware off: NVreg_EnableGpuFirmware=0",
        ),
        sources=(_XID,),
    ),
    Cause(
        name="gpu_fw_hang",
        type="gpu_hardware",
        verdicts=(Verdict.REPAIR,),
        what="An engine or the firmware of the GPU hangs, or the GPU could not be started.",
        steps=(
            "Reset the GPU (nvidia-smi --gpu-reset); if that hangs, reboot.",
            "If it repeats, install a newer driver and firmware, then ask the vendor.",
        ),
        sources=(_XID,),
    ),
    Cause(
        name="gpu_reset",
        type="gpu_hardware",
        verdicts=(Verdict.REPAIR,),
        what="The driver has met a fault that only a reset of the GPU clears.",
        steps=(
            "Stop everything on this GPU and reset it: nvidia-smi --gpu-reset",
            "If the reset is refused, reboot.",
            "If Xid {xid} repeats, ask the vendor.",
        ),
        sources=(_XID,),
    ),
    Cause(
        name="gpu_internal",
        type="gpu_hardware",
        verdicts=(Verdict.REPAIR,),
        what="An internal fault of GPU or driver for which the catalogue sends to the vendor.",
        steps=(
            "Collect the report while it is fresh: nvidia-bug-report.sh",
            "Reboot, and keep the machine out of use if Xid {xid} comes back.",
            "Ask the vendor.",
        ),
        sources=(_XID,),
    ),
    Cause(
        name="gpu_app_fault",
        type="cuda_error",
        verdicts=(Verdict.RESTART,),
        what="The driver ended a process whose work made an engine of the GPU fail; the GPU itself goes on.",
        steps=(
            "Restart the run from the last checkpoint.",
            "If Xid {xid} comes back at the same step, look for a bug in a custom kernel or codec.",
            "If it comes back on one GPU only, test that GPU: dcgmi diag -r 3",
        ),
        sources=(_XID,),
    ),
    Cause(
        name="gpu_benign",
        type=None,
        verdicts=(Verdict.EARLIER,),
        what="A note of the driver that needs no action by itself, or follows another fault.",
        steps=("Look for another Xid or error just before it.",),
        sources=(_XID,),
    ),
    Cause(
        name="gpu_recovery_changed",
        type="gpu_hardware",
        verdicts=(Verdict.PARK,),
        what="The driver says what the GPU now needs before it can be used again.",
        steps=(
            "Do what the line says: {action}.",
            "See it at any time: nvidia-smi -q | grep -i 'recovery action'",
            "The Xid just before it tells the reason.",
        ),
        sources=(_XID,),
    ),
    Cause(
        name="gpu_thermal",
        type="gpu_hardware",
        verdicts=(Verdict.FIX,),
        what="The GPU slows itself down because it is too hot. Slow is not a crash.",
        steps=(
            "Read temperatures and limits: nvidia-smi -q -d TEMPERATURE,PERFORMANCE",
            "Clear airflow and filters, and check the fans in the BMC.",
            "Until then lower the power limit: nvidia-smi -pl",
        ),
        sources=("NVML clocks event reasons",),
    ),
    Cause(
        name="gpu_power_brake",
        type="gpu_hardware",
        verdicts=(Verdict.FIX,),
        what="The machine cannot give the card the power it asks for, so the card is slowed down.",
        steps=(
            "Check that each power cable of the card is plugged in fully.",
            "Check the power supplies and the power cap in the BMC.",
            "Until then lower the power limit: nvidia-smi -pl",
        ),
        sources=("NVML clocks event reasons", _XID),
    ),
    Cause(
        name="pcie_aer",
        type="gpu_hardware",
        verdicts=(Verdict.REPAIR,),
        what="A PCIe link reported a fatal error; the device behind it is gone until a reset.",
        steps=(
            "Find the device that the line names: lspci",
            "Reboot, cold if possible.",
            "If it repeats: reseat card and riser, update firmware, replace the card.",
        ),
        sources=("Linux Documentation/PCI/pcieaer-howto",),
    ),
    Cause(
        name="nccl_timeout",
        type="collective_timeout",
        verdicts=(Verdict.RESTART,),
        what="A rank waited in vain for the others in a collective. The rank that reports it is seldom the "
        "guilty one: look for a rank that is dead, elsewhere in the code, or slow.",
        steps=(
            "Rank {rank} waited in {operation}, sequence {sequence}: look which rank has not reported that number.",
            "Look at what each rank did last: an exception, an evaluation or a save on one rank only, an "
            "uneven end of the data.",
            "Restart; if it stops at the same step again, the ranks call different collectives there.",
            "Set TORCH_NCCL_TRACE_BUFFER_SIZE=2000 and TORCH_NCCL_DUMP_ON_TIMEOUT=1 to have it recorded.",
            "If one rank only is slow (saving, tokenizing), give init_process_group a longer timeout.",
            "If it wanders over ranks, test the network with nccl-tests.",
        ),
        sources=(_WATCHDOG, _NCCL),
    ),
    Cause(
        name="nccl_late_watchdog",
        type="collective_timeout",
        verdicts=(Verdict.RESTART,),
        what="The watchdog found a timeout long after its limit: it was held up itself, by a GPU call or by "
        "Python's lock.",
        steps=(
            "The limit was {timeout} ms and it ran {ran} ms: trust an outside hang clock, not this one.",
            "Restart, and treat it as a hang: look for the rank that was stuck first.",
            "Read the kernel log for an Xid of that time.",
        ),
        sources=(_WATCHDOG,),
    ),
    Cause(
        name="nccl_heartbeat",
        type="collective_timeout",
        verdicts=(Verdict.RESTART,),
        what="The thread that watches the collectives was stuck itself, so the process was ended: a call into "
        "CUDA or NCCL hangs, or Python's lock was never given back.",
        steps=(
            "Restart.",
            "Read the kernel log for an Xid: a GPU that no longer answers does this.",
            "Look at the thread stacks of the stuck rank if they were dumped.",
            "If the run was only slow (compilation, first step), raise TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC.",
        ),
        sources=(_WATCHDOG,),
    ),
    Cause(
        name="gloo_timeout",
        type="collective_timeout",
        verdicts=(Verdict.RESTART,),
        what="A rank waited in vain for another in a collective over the CPU network.",
        steps=(
            "Look which rank stopped first: the one without this message.",
            "Restart.",
            "If one rank does longer work alone (saving, tokenizing), give init_process_group a longer timeout.",
        ),
        sources=("gloo transport/tcp/unbound_buffer.cc", "PyTorch ProcessGroupGloo.cpp"),
    ),
    Cause(
        name="collective_mismatch",
        type="collective_error",
        verdicts=(Verdict.PARK,),
        what="The ranks called different collectives, or the same with different shapes.",
        steps=(
            "Compare the calls that the message shows for the two ranks.",
            "Look for a branch that only some ranks take: a skipped batch, an early stop, a rank-0 save.",
            "Run with TORCH_DISTRIBUTED_DEBUG=DETAIL to have each call checked.",
        ),
        sources=("PyTorch ProcessGroupWrapper.cpp",),
    ),
    Cause(
        name="nccl_remote",
        type="collective_error",
        verdicts=(Verdict.EARLIER,),
        what="Another rank went away in the middle of a collective; this rank only noticed.",
        steps=(
            "Look for the first failure on another rank, in its own log if it has one.",
            "If no other rank failed, look at the network between the two machines.",
        ),
        sources=(_NCCL,),
    ),
    Cause(
        name="nccl_system",
        type="collective_error",
        verdicts=(Verdict.EARLIER,),
        what="NCCL met an error of the system or of CUDA below it; the line names only that.",
        steps=(
            "Look for an earlier error on this rank, and for NCCL's own warning just above.",
            "Run with NCCL_DEBUG=INFO: it names the call that failed.",
            "Check /dev/shm and the limit of locked memory (ulimit -l).",
        ),
        sources=(_NCCL,),
    ),
    Cause(
        name="nccl_init",
        type="config_error",
        verdicts=(Verdict.PARK,),
        what="The collective library refused the setup: two ranks on one GPU, no usable network interface, "
        "different versions, or a wrong call.",
        steps=(
            "Give each rank its own GPU: torch.cuda.set_device(local_rank) before init_process_group.",
            "Do not start more processes per node than there are GPUs.",
            "Set NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME to an interface that all machines have.",
            "Use the same framework and NCCL on all machines.",
        ),
        sources=(_NCCL,),
    ),
    Cause(
        name="network_fabric",
        type="collective_error",
        verdicts=(Verdict.RESTART, Verdict.REPAIR),
        what="InfiniBand, RoCE or the network adapter failed under a collective.",
        steps=(
            "Look first whether the peer's process had died: then this follows from it.",
            "See ports and counters: ibstat, and rdma statistic show link",
            "Restart; if the same adapter or cable returns, take the machine out.",
            "For RoCE check flow control and NCCL_IB_GID_INDEX; for long pauses raise NCCL_IB_TIMEOUT.",
        ),
        sources=(_NCCL, "libibverbs work completion status"),
    ),
    Cause(
        name="peer_closed",
        type="collective_error",
        verdicts=(Verdict.EARLIER,),
        what="The process on the other side closed the connection, most often because it died.",
        steps=(
            "Look for the first failure on another rank.",
            "If no rank failed, look at the machine or network of the peer that is named.",
        ),
        sources=("gloo transport/tcp/pair.cc", "Open MPI and UCX error messages"),
    ),
    Cause(
        name="store_lost",
        type="collective_error",
        verdicts=(Verdict.EARLIER,),
        what="The process that keeps the common store (rank 0, or the launcher) has ended, so the others "
        "cannot reach it.",
        steps=(
            "Look for the first failure on rank 0 and in its launcher.",
            "If rank 0 had simply finished, the others ended late: this is noise.",
        ),
        sources=(_ELASTIC,),
    ),
    Cause(
        name="dist_rendezvous",
        type="collective_timeout",
        verdicts=(Verdict.FIX,),
        what="Not all processes met at the start within the time limit.",
        steps=(
            "Look for a node that never started, or whose process died before it came to the meeting.",
            "Check that all nodes use the same MASTER_ADDR, port and number of nodes, and can reach them.",
            "Look for an orphan of an earlier run that still holds the port.",
            "Choose another port, and a longer timeout where nodes start late.",
        ),
        sources=(_ELASTIC,),
    ),
    Cause(
        name="port_in_use",
        type="connection_error",
        verdicts=(Verdict.FIX,),
        what="The port of the meeting point is taken: by an orphan of an earlier run, or by a second job on "
        "this machine.",
        steps=(
            "Find the holder of the port: ss -ltnp",
            "If it is an orphan of this run, end it and restart.",
            "Else use another port: torchrun --master_port, or --rdzv_endpoint with port 0.",
        ),
        sources=(_ELASTIC,),
    ),
    Cause(
        name="libnccl_segv",
        type="segfault",
        verdicts=(Verdict.RESTART, Verdict.PARK),
        what="The process crashed inside NCCL.",
        steps=(
            "Restart once.",
            "Make sure that one NCCL is loaded: LD_LIBRARY_PATH must not bring in a second one.",
            "Use the same NCCL on all machines, or a newer one.",
        ),
        sources=(_NCCL,),
    ),
)
