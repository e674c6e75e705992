"""The crash types: one row each."""

from trainguard.crash_types.values import Blame, CrashType, Retry

_ROWS = (
    CrashType(
        name="cuda_oom",
        blame=Blame.RESOURCE,
        retry=Retry.CLEAN,
        what=(
            "The GPU had too little free memory for an allocation: of PyTorch, cuBLAS, NCCL, JAX or "
            "TensorFlow, on CUDA, ROCm or XPU. It is too large a batch, a leak, a fragmented cache, or "
            "another process on the same GPU."
        ),
        signs=(
            'The exception is OutOfMemoryError or says "CUDA out of memory", "HIP out of memory", '
            "CUBLAS_STATUS_ALLOC_FAILED or RESOURCE_EXHAUSTED. The numbers in it tell which case it is: "
            "little reserved by this process points at a neighbour, much reserved but unallocated at "
            "fragmentation."
        ),
        steps=(
            (
                "See who holds the memory: nvidia-smi --query-compute-apps=pid,used_memory --format=csv; "
                "stop orphans and notebooks."
            ),
            (
                "If much is reserved but unallocated, set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True "
                "before the start."
            ),
            "Halve the batch per device and double gradient_accumulation_steps: the result stays the same.",
            "Cap the longest sequence (max_length, cutoff_len) and switch on gradient checkpointing.",
            (
                "Lower what stays on the GPU: bf16, an 8-bit optimizer, ZeRO stage 2 or 3 or FSDP, offload "
                "to the host."
            ),
            (
                "If memory grows from step to step, look for what keeps tensors alive: loss summed without "
                ".item(), lists of outputs; torch.cuda.memory._record_memory_history() shows it."
            ),
        ),
        sources=(
            "c10/cuda/CUDACachingAllocator.cpp",
            "docs.pytorch.org, notes/cuda, memory management",
            "jax docs, GPU memory allocation",
        ),
    ),
    CrashType(
        name="host_oom",
        blame=Blame.RESOURCE,
        retry=Retry.CLEAN,
        what=(
            "The machine or the container ran out of main memory: the kernel, the cgroup or systemd-oomd "
            "killed a process, or an allocation was refused."
        ),
        signs=(
            'The process itself often says only "Killed" (exit code 137). The proof is outside its '
            'log: "Out of memory: Killed process" or "oom-kill:constraint=" in the kernel log, a '
            "risen oom_kill in memory.events, or Slurm's oom_kill event."
        ),
        steps=(
            (
                "Ask the kernel who was killed and how large it was: journalctl -k -g 'oom-kill|Killed "
                "process' (or dmesg -T)."
            ),
            (
                "See which limit was met: memory.max and memory.events of the job's cgroup, or free -h for "
                "the whole machine."
            ),
            (
                "Lower the number of data loader workers and prefetch_factor: each worker holds batches and "
                "a growing copy of the dataset."
            ),
            "Keep the dataset in Arrow, memory-mapped or numpy form, not in Python lists and dicts.",
            (
                "Raise the limit: --mem for Slurm, --memory for Docker, resources.limits.memory for "
                "Kubernetes, MemoryMax= for systemd."
            ),
            (
                "With offload or when loading a large model on every rank, load by one rank or with "
                "low_cpu_mem_usage=True."
            ),
        ),
        sources=(
            "kernel, mm/oom_kill.c",
            "kernel docs, admin-guide/cgroup-v2",
            "systemd-oomd.service(8)",
            "Slurm, slurmstepd",
        ),
    ),
    CrashType(
        name="shared_memory",
        blame=Blame.RESOURCE,
        retry=Retry.CLEAN,
        what=(
            "/dev/shm is too small or full. Data loader workers hand over their batches through it, and "
            "NCCL keeps its buffers there."
        ),
        signs=(
            '"Bus error" together with "shm", "unable to allocate shared memory" or "No space left '
            'on device" on a path under /dev/shm; df -h /dev/shm shows it full or only 64M, which '
            "is Docker's default."
        ),
        steps=(
            "Look at its size and use: df -h /dev/shm; ls -la /dev/shm.",
            "Remove what dead runs left there, after making sure that nobody holds it: fuser -v /dev/shm/*.",
            (
                "Make it larger: docker run --shm-size=16g or --ipc=host; in Kubernetes an emptyDir with "
                "medium Memory at /dev/shm; as root mount -o remount,size=16G /dev/shm."
            ),
            "Lower num_workers, prefetch_factor or the batch.",
            (
                "As a makeshift call torch.multiprocessing.set_sharing_strategy('file_system'), or run with "
                "num_workers=0."
            ),
        ),
        sources=(
            "torch/utils/data/_utils/signal_handling.py",
            "NCCL, src/misc/shmutils.cc",
            "kernel docs, filesystems/tmpfs",
        ),
    ),
    CrashType(
        name="disk_full",
        blame=Blame.RESOURCE,
        retry=Retry.CLEAN,
        what=(
            "A file system took no more data: no space, no inodes, or the user's quota is used up. It is "
            "mostly met while a checkpoint or a cache is written, so the newest checkpoint may be cut short."
        ),
        signs=(
            '"No space left on device" (errno 28) or "Disk quota exceeded" (errno 122). torch.save may hide '
            'it behind "unexpected pos" or a failed write of the zip archive.'
        ),
        steps=(
            (
                "See what is full, space and inodes: df -h PATH; df -i PATH; for a quota: quota -s, or lfs "
                "quota on Lustre."
            ),
            (
                "Find what is large: du -xh --max-depth=2 PATH | sort -h | tail; old checkpoints and "
                "~/.cache/huggingface come first."
            ),
            (
                "Check that the newest checkpoint is whole before resuming; if it is not, move it aside and "
                "resume from the one before."
            ),
            (
                "Keep fewer checkpoints (save_total_limit) or save less often (save_steps); leave optimizer "
                "states out where they are not needed."
            ),
            "Move caches and temporary files to a larger disk: HF_HOME, TMPDIR, TRITON_CACHE_DIR, WANDB_DIR.",
            "If df shows space but writing fails, look for deleted files that are still open: lsof +L1.",
        ),
        sources=(
            "errno(3), ENOSPC and EDQUOT",
            "torch/serialization.py",
            "transformers, TrainingArguments.save_total_limit",
        ),
    ),
    CrashType(
        name="too_many_files",
        blame=Blame.RESOURCE,
        retry=Retry.CLEAN,
        what=(
            "A limit on open files, processes or threads was reached: of the process, of the user, of the "
            "cgroup, or of the whole machine."
        ),
        signs=(
            '"Too many open files" (errno 24), "can\'t start new thread", "pthread_create failed" or '
            '"Resource temporarily unavailable" from fork; /proc/PID/limits shows the limit and ls '
            "/proc/PID/fd | wc -l how near it is."
        ),
        steps=(
            (
                "Compare limit and use: cat /proc/PID/limits; ls /proc/PID/fd | wc -l; cat pids.max and "
                "pids.current of the cgroup."
            ),
            (
                "Raise the soft limit before the start: ulimit -n 65536 (files), ulimit -u 65536 "
                "(processes); LimitNOFILE= and TasksMax= in a unit."
            ),
            (
                "Lower num_workers; for open files call "
                "torch.multiprocessing.set_sharing_strategy('file_system')."
            ),
            (
                "Set OMP_NUM_THREADS, MKL_NUM_THREADS and TOKENIZERS_PARALLELISM=false, so that each worker "
                "starts few threads."
            ),
            "If the number grows with time, look for what is never closed: lsof -p PID, sorted by name.",
        ),
        sources=(
            "errno(3), EMFILE, ENFILE and EAGAIN",
            "getrlimit(2)",
            "kernel docs, cgroup-v2, pids",
            "torch/multiprocessing",
        ),
    ),
    CrashType(
        name="cuda_error",
        blame=Blame.SOFTWARE,
        retry=Retry.YES,
        what=(
            "A kernel on the GPU did something illegal: it read or wrote a wrong address, failed an "
            "assertion, or did not come to its end. The error is reported later than it happens, so the "
            "traceback often points at an innocent line."
        ),
        signs=(
            '"illegal memory access", "device-side assert triggered", "unspecified launch failure", '
            '"misaligned address", or a cuBLAS or cuDNN call with EXECUTION_FAILED; the kernel log may hold '
            "Xid 13 or 31 of the same process."
        ),
        steps=(
            (
                'Look above the trace for "Assertion ... failed": an index, label or token id out of range '
                "is the usual cause."
            ),
            (
                "Look in the kernel log for an Xid at that time: journalctl -k -g 'NVRM: Xid'; 48, 63, 64, "
                "79, 94 or 95 mean the hardware."
            ),
            (
                "Restart once from the last checkpoint; if it fails at the same step, it is the code or the "
                "data."
            ),
            "Reproduce with CUDA_LAUNCH_BLOCKING=1: the trace then shows the right line.",
            (
                "Run the same batch on the CPU, where a wrong index gives a plain IndexError; or use "
                "compute-sanitizer on a small run."
            ),
            (
                "Switch off what was built or added last: a custom extension, flash attention, "
                "torch.compile, a new library version."
            ),
        ),
        sources=(
            "CUDA Runtime API, cudaError_t",
            "NVIDIA Xid catalogue",
            "c10/cuda/CUDAException.cpp",
            "compute-sanitizer manual",
        ),
    ),
    CrashType(
        name="gpu_hardware",
        blame=Blame.HARDWARE,
        retry=Retry.NO,
        what=(
            "The GPU, its memory, its link or its power supply failed. The code is not to blame, and a "
            "restart on the same GPU will mostly fail again or compute wrongly."
        ),
        signs=(
            "The kernel log holds an Xid such as 48, 63, 64, 74, 79, 94, 95, 119 or 120; or the log says "
            '"uncorrectable ECC", "GPU is lost" or "fallen off the bus"; nvidia-smi misses a GPU or shows '
            "ERR!."
        ),
        steps=(
            "Note which GPU it is: nvidia-smi -L, and the PCI address in journalctl -k -g 'NVRM: Xid'.",
            "Look at its memory and its links: nvidia-smi -q -d ECC,ROW_REMAPPER; nvidia-smi nvlink -e.",
            (
                "Go on without it: set CUDA_VISIBLE_DEVICES to the other GPUs, or exclude the node (sbatch "
                "--exclude=NODE)."
            ),
            "When no process uses it any more, reset it (nvidia-smi --gpu-reset -i N) or reboot the machine.",
            "Test it before it is used again: dcgmi diag -r 3.",
            "If it comes back, save nvidia-bug-report.sh's output and ask the vendor for a replacement.",
        ),
        sources=(
            "NVIDIA Xid catalogue",
            "NVIDIA GPU memory error management",
            "nvidia-smi manual",
            "DCGM diagnostics",
        ),
    ),
    CrashType(
        name="gpu_driver",
        blame=Blame.INFRASTRUCTURE,
        retry=Retry.NO,
        what=(
            "The driver, NVML or the CUDA libraries cannot be used together, or no GPU is visible to the "
            "process."
        ),
        signs=(
            '"Driver/library version mismatch", "CUDA driver version is insufficient", "no CUDA-capable '
            'device", "No CUDA GPUs are available" or "no kernel image is available", mostly in the first '
            "seconds of a run."
        ),
        steps=(
            "Ask the driver: nvidia-smi; if that fails too, it is the machine and not the run.",
            (
                "See what the process was given: echo $CUDA_VISIBLE_DEVICES; in a container --gpus all, in "
                "Slurm --gres=gpu:N."
            ),
            (
                "Compare versions: cat /proc/driver/nvidia/version against python -c 'import torch; "
                "print(torch.version.cuda, torch.cuda.get_arch_list())'."
            ),
            (
                "For a version mismatch reload the driver's modules or reboot, at a time when no job runs: "
                "jobs that already use the GPU go on working."
            ),
            (
                "For too old a driver, or a GPU that the build does not know, install the wheel for the "
                "CUDA version that nvidia-smi names, or update the driver."
            ),
            "Keep unattended upgrades from replacing the driver: apt-mark hold the nvidia packages.",
        ),
        sources=(
            "CUDA compatibility guide",
            "c10/cuda/CUDAFunctions.cpp",
            "NVML API reference",
            "torch/cuda/__init__.py",
        ),
    ),
    CrashType(
        name="collective_timeout",
        blame=Blame.INFRASTRUCTURE,
        retry=Retry.YES,
        what=(
            "A collective operation or a rendezvous waited longer than its limit: at least one rank did not "
            "come, or came with another operation. The rank that complains is mostly the one that waited."
        ),
        signs=(
            '"Watchdog caught collective operation timeout" with a SeqNum, gloo\'s "Timed out waiting", '
            "or RendezvousTimeoutError. The guilty rank is the one with a smaller SeqNum, or with no "
            "such line at all."
        ),
        steps=(
            (
                "Find the rank that is missing: compare the SeqNum and the operation of all ranks, and read "
                "that rank's log first."
            ),
            (
                "Look whether a rank was merely slow: evaluation, tokenising, saving or a download on rank "
                "0 alone while the others wait."
            ),
            "Look in that node's kernel log for an Xid, a link that went down or an out-of-memory kill.",
            (
                "Restart; if it comes back at the same place, the ranks take different paths: unequal "
                "batches, a branch on the rank, unused parameters."
            ),
            (
                "Record more: TORCH_NCCL_TRACE_BUFFER_SIZE=2000, TORCH_NCCL_DUMP_ON_TIMEOUT=1, "
                "NCCL_DEBUG=INFO, TORCH_DISTRIBUTED_DEBUG=DETAIL."
            ),
            (
                "Only where the wait is legitimate raise the limit: init_process_group(timeout=...) or "
                "ddp_timeout."
            ),
        ),
        sources=(
            "torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp",
            "gloo/transport/tcp",
            "torch/distributed/elastic/rendezvous",
        ),
    ),
    CrashType(
        name="collective_error",
        blame=Blame.INFRASTRUCTURE,
        retry=Retry.YES,
        what=(
            "A collective operation failed because a peer died or the network between them broke. Often it "
            "only echoes what happened on another rank."
        ),
        signs=(
            'ncclRemoteError, ncclSystemError, ncclInternalError, "Connection closed by peer" from gloo, or '
            "an InfiniBand completion error; look for an earlier failure on another rank before believing "
            "it."
        ),
        steps=(
            (
                "Look for the first failure in time over all ranks: a peer that ran out of memory or raised "
                "shows up here as a closed connection."
            ),
            "Restart: a link that flapped is gone by then.",
            (
                "Run with NCCL_DEBUG=INFO (or WARN) and read the line before the exception: it names the "
                "address, the device and the errno."
            ),
            (
                "Test the network without the training: all_reduce_perf of nccl-tests; ibstat and "
                "ibv_devinfo for InfiniBand; ethtool -S for errors."
            ),
            (
                "Choose the interface by hand where there are several: NCCL_SOCKET_IFNAME, "
                "GLOO_SOCKET_IFNAME, NCCL_IB_HCA."
            ),
            (
                "To narrow it down switch parts off: NCCL_IB_DISABLE=1 or NCCL_P2P_DISABLE=1; exclude the "
                "node that is named each time."
            ),
        ),
        sources=(
            "NCCL, src/nccl.h.in and troubleshooting",
            "torch/csrc/distributed/c10d/NCCLUtils.hpp",
            "gloo/transport/tcp/pair.cc",
        ),
    ),
    CrashType(
        name="connection_error",
        blame=Blame.INFRASTRUCTURE,
        retry=Retry.YES,
        what=(
            "The network or a remote service failed: a refused or reset connection, DNS, TLS, an HTTP 429 "
            "or 5xx, object storage, a model hub or a tracker, or a port that is already in use."
        ),
        signs=(
            'ConnectionError, HTTPError, "Connection refused", "Name or service not known", "Max retries '
            'exceeded", or "Address already in use"; the host and the port stand in the message.'
        ),
        steps=(
            "Try the same address from the same machine: curl -sSI https://HOST; getent hosts HOST.",
            (
                "For a port in use find its holder (ss -ltnp | grep PORT) and stop the orphan, or choose "
                "another MASTER_PORT."
            ),
            (
                "Restart with a pause between tries; for HTTP 429 use a token, fewer processes that "
                "download, or a longer pause."
            ),
            "Download once before the run, then set HF_HUB_OFFLINE=1 and HF_DATASETS_OFFLINE=1.",
            (
                "Keep the tracker from ending the run: WANDB_MODE=offline and wandb sync later, or "
                "report_to none."
            ),
            "Behind a proxy or with a private certificate set HTTPS_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE.",
        ),
        sources=(
            "requests and urllib3, exceptions",
            "huggingface_hub docs, environment variables",
            "wandb docs, offline runs",
            "errno(3)",
        ),
    ),
    CrashType(
        name="timeout",
        blame=Blame.INFRASTRUCTURE,
        retry=Retry.YES,
        what=(
            "An operation other than a collective took longer than it was allowed: a read, a subprocess, a "
            "lock, a queue, a worker."
        ),
        signs=(
            'TimeoutError, subprocess.TimeoutExpired, "Read timed out" or queue.Empty at the end of the '
            "trace; the innermost frame tells what was waited for."
        ),
        steps=(
            "Read in the trace what was waited for, and for how long.",
            "Restart once: a busy disk or a busy service passes.",
            (
                "Look at the load at that time: uptime, iostat -x 5, nfsiostat, and how many jobs share the "
                "storage."
            ),
            (
                "For a file lock make sure that no dead process left it: fuser -v FILE; remove stale .lock "
                "files in the cache."
            ),
            (
                "If the wait is legitimate raise its limit: DataLoader(timeout=...), "
                "HF_HUB_DOWNLOAD_TIMEOUT, the timeout argument of the call."
            ),
            "For a data loader run with num_workers=0 and time one batch.",
        ),
        sources=(
            "docs.python.org, TimeoutError and subprocess",
            "torch/utils/data/dataloader.py",
            "huggingface_hub docs, environment variables",
        ),
    ),
    CrashType(
        name="storage_error",
        blame=Blame.INFRASTRUCTURE,
        retry=Retry.YES,
        what=(
            "The file system or the device below it misbehaves: I/O errors, a stale handle of a network "
            "mount, a file system that the kernel has made read-only, an NVMe drive that was reset."
        ),
        signs=(
            '"Input/output error" (errno 5), "Stale file handle" (116), "Read-only file system" (30) or '
            '"Transport endpoint is not connected" (107); the kernel log names the device or the server.'
        ),
        steps=(
            "Ask the kernel what happened: journalctl -k -g 'I/O error|EXT4-fs|XFS|nvme|nfs: server'.",
            (
                "Find out what the path lies on and whether it answers: findmnt -T PATH; timeout 10 stat "
                "PATH; touch a file there."
            ),
            (
                "For a network mount wait until the server answers, remount it (umount -l, then mount), and "
                "restart."
            ),
            (
                "Keep hot files off the network: TRITON_CACHE_DIR, TORCHINDUCTOR_CACHE_DIR and TMPDIR on a "
                "local disk."
            ),
            (
                "For a local drive look at its health: smartctl -a or nvme smart-log; save the checkpoints "
                "elsewhere first."
            ),
            (
                "A file system that became read-only needs a reboot with fsck, or another drive: do not "
                "just remount it writable."
            ),
        ),
        sources=(
            "errno(3), EIO, ESTALE and EROFS",
            "kernel docs, filesystems/ext4",
            "kernel, drivers/nvme/host",
            "nfs(5)",
        ),
    ),
    CrashType(
        name="node_failure",
        blame=Blame.INFRASTRUCTURE,
        retry=Retry.YES,
        what=(
            "The machine went down or was lost under the job: a reboot, a kernel panic, a soft lockup, a "
            "lost network, or a node that the scheduler took out."
        ),
        signs=(
            "Slurm says NODE_FAIL, Kubernetes NodeLost, the elastic agent misses heartbeats; or the log "
            "stops with no word and the machine's boot id or uptime is newer than the run."
        ),
        steps=(
            "See whether it rebooted and when: uptime -s; last -x reboot | head; journalctl --list-boots.",
            (
                "Read the end of the boot before: journalctl -k -b -1 -e; look for panic, soft lockup, hung "
                "task, MCE or Xid."
            ),
            "Ask the scheduler: sacct -j JOB -o JobID,State,NodeList,ExitCode; scontrol show node NODE.",
            "Restart from the last checkpoint; in Slurm with --requeue, and let it go on another node.",
            (
                "If the same node fails again, exclude it (--exclude=NODE, kubectl cordon NODE) and hand it "
                "to the administrator."
            ),
            "Save checkpoints more often: what lies between the last one and the failure is lost.",
        ),
        sources=(
            "Slurm, sacct job states",
            "Kubernetes docs, node status",
            "kernel docs, admin-guide/lockup-watchdogs",
            "torch/distributed/elastic",
        ),
    ),
    CrashType(
        name="preempted",
        blame=Blame.EXTERNAL,
        retry=Retry.YES,
        what=(
            "The scheduler or the cloud took the machine back, or the job reached its time limit. Nothing "
            "is wrong with the run."
        ),
        signs=(
            'Slurm\'s "CANCELLED AT ... DUE TO PREEMPTION" or "DUE TO TIME LIMIT", LSF\'s TERM_RUNLIMIT, '
            "a spot or eviction notice; then SIGTERM and the noise that it sets off."
        ),
        steps=(
            (
                "Submit it again and resume from the last checkpoint; --requeue or a restart policy does so "
                "without you."
            ),
            "Ask for more time (sbatch --time=...), or split the run into pieces that fit into the limit.",
            (
                "Have a warning sent before the end, #SBATCH --signal=B:USR1@300, and save a checkpoint on "
                "that signal."
            ),
            "Save more often than the notice is long: a spot machine gives from 30 seconds to two minutes.",
            "If it happens often, use another partition or QOS, or machines that are not preemptible.",
        ),
        sources=(
            "Slurm, sbatch manual and preemption guide",
            "LSF, bhist termination reasons",
            "cloud vendors' spot notices",
        ),
    ),
    CrashType(
        name="process_killed",
        blame=Blame.EXTERNAL,
        retry=Retry.YES,
        what=(
            "The process was ended by SIGKILL and nothing says who sent it. Memory is the most frequent "
            "reason, but without the kernel's or the cgroup's word it is not proven."
        ),
        signs=(
            '"Killed", exit code 137 or -9, "Signal 9 (SIGKILL)", and no traceback of its own; neither the '
            "kernel log nor memory.events shows an out-of-memory kill."
        ),
        steps=(
            (
                "Look for an out-of-memory kill: journalctl -k -g 'oom-kill|Killed process'; in a container "
                "the host's log, not your own."
            ),
            (
                "Look at the cgroup's counters: memory.events (oom_kill) and memory.peak; kubectl describe "
                "pod; sacct -o MaxRSS,State."
            ),
            (
                "Ask whether a person, a script or the scheduler ended it: shell history, sacct, cron, a "
                "launcher that gave up on its ranks."
            ),
            (
                "Restart; if it comes back, record memory next to the steps (free -m in a loop, or "
                "systemd-cgtop) and see whether it grows."
            ),
            (
                "To know the sender next time let the administrator watch kill: auditctl -a always,exit -S "
                "kill -F a1=9."
            ),
        ),
        sources=(
            "signal(7)",
            "kernel docs, cgroup-v2, memory.events",
            "auditctl(8)",
        ),
    ),
    CrashType(
        name="interrupted",
        blame=Blame.EXTERNAL,
        retry=Retry.NO,
        what=(
            "A person or a program stopped the run on purpose: Ctrl-C, SIGTERM, a closed terminal, or a job "
            "that was cancelled."
        ),
        signs=(
            'KeyboardInterrupt, "Received SIGTERM", SignalException, "CANCELLED by" or exit code 130 or '
            "143, on all ranks at the same moment."
        ),
        steps=(
            "Ask who stopped it and why; for Slurm scancel leaves the user's id in the CANCELLED line.",
            (
                "If it was wanted, nothing needs to be done: start it again when you like, it resumes from "
                "the last checkpoint."
            ),
            (
                "If it was a closed terminal (SIGHUP), start it with nohup, setsid, tmux or as a systemd "
                "service."
            ),
            (
                "If a service or a container was stopped, look at systemctl status or docker events for the "
                "time."
            ),
            "To lose less next time save a checkpoint when SIGTERM comes.",
        ),
        sources=(
            "docs.python.org, KeyboardInterrupt",
            "signal(7)",
            "torch/distributed/elastic/multiprocessing/api.py",
            "Slurm, scancel manual",
        ),
    ),
    CrashType(
        name="segfault",
        blame=Blame.SOFTWARE,
        retry=Retry.YES,
        what=(
            "Native code crashed: a wrong address, a corrupted heap, an abort, an illegal instruction. It "
            "lies in a compiled library or in the fit between two of them, seldom in the Python code."
        ),
        signs=(
            'SIGSEGV, SIGABRT, SIGBUS, SIGILL or SIGFPE, exit code 139 or 134 (or -11, -6), "Fatal Python '
            'error", "double free", or "terminate called"; the kernel log names the library: segfault at '
            "... in libX.so."
        ),
        steps=(
            "Look in the kernel log for the library: journalctl -k -g 'segfault|traps:'.",
            "Restart once from the last checkpoint; if it fails at the same place, go on below.",
            (
                "Run with PYTHONFAULTHANDLER=1 (or python -X faulthandler): the Python lines of all threads "
                "are then printed."
            ),
            (
                "Ask what changed: compare pip freeze with the last good run; rebuild extensions "
                "(flash-attn, apex, deepspeed) for this torch."
            ),
            "Get the native trace: ulimit -c unlimited, then coredumpctl gdb, or gdb -p PID, and bt.",
            (
                "If it moves around and the code did not change, test the machine's memory and the GPU "
                "(dcgmi diag -r 3)."
            ),
        ),
        sources=(
            "signal(7)",
            "docs.python.org, faulthandler",
            "glibc, malloc",
            "coredumpctl(1)",
        ),
    ),
    CrashType(
        name="numerical",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "Loss or gradients are no longer numbers, or the loss scaler gave up. From that step on the "
            "weights are worthless, so a restart from a checkpoint behind that point repeats it."
        ),
        signs=(
            '"nan" or "inf" as loss or grad_norm over several logged steps, "Current loss scale '
            'already at minimum", or autograd\'s "returned nan values in its".'
        ),
        steps=(
            (
                "Find the first step at which loss or grad_norm is nan or jumps, and the last checkpoint "
                "before it; resume from there."
            ),
            "Use bf16 instead of fp16, or keep the loss and the norms in fp32.",
            "Lower the learning rate or lengthen the warmup, and clip gradients (max_grad_norm=1.0).",
            (
                "Look at the batch of that step: empty labels (all -100), zero-length samples, infinite "
                "values; skip it and see."
            ),
            (
                "Run a few steps from that checkpoint with torch.autograd.set_detect_anomaly(True): it "
                "names the operation."
            ),
            "If it happens on one GPU only, suspect that GPU: nvidia-smi -q -d ECC, dcgmi diag.",
        ),
        sources=(
            "torch/autograd/anomaly_mode.py",
            "deepspeed/runtime/fp16/loss_scaler.py",
            "docs.pytorch.org, torch.amp",
        ),
    ),
    CrashType(
        name="checkpoint_corrupt",
        blame=Blame.DATA,
        retry=Retry.CLEAN,
        what=(
            "A checkpoint cannot be read back: it was cut short while it was written, parts of it are "
            "missing, or a download is not what it claims to be."
        ),
        signs=(
            '"failed finding central directory", HeaderTooLarge or MetadataIncompleteBuffer, "unexpected '
            'EOF", "invalid load key", "Ran out of input", or a missing trainer_state.json; the file is '
            "smaller than its siblings."
        ),
        steps=(
            (
                "Compare sizes with the checkpoint before: ls -l checkpoint-*/; a file of a few hundred "
                "bytes may be a Git LFS pointer (git lfs pull)."
            ),
            (
                "Move the bad one aside (do not delete it yet) and resume from the one before: "
                "resume_from_checkpoint=PATH."
            ),
            "Ask why it was cut short: a full disk (df -h), a kill during the save, a network mount.",
            "For a downloaded model remove that snapshot from the cache and download it again.",
            (
                'Check that the good one can be read: python -c \'import torch; torch.load("FILE", '
                'map_location="cpu")\' or safetensors.safe_open.'
            ),
            (
                "Save to a temporary name, then rename; and keep at least two checkpoints "
                "(save_total_limit=2 or more)."
            ),
        ),
        sources=(
            "torch/serialization.py",
            "caffe2/serialize/inline_container.cc",
            "safetensors, format and SafeTensorError",
            "docs.python.org, pickle",
        ),
    ),
    CrashType(
        name="model_load_error",
        blame=Blame.CONFIGURATION,
        retry=Retry.NO,
        what=(
            "The weights were read but do not fit the model: other sizes, missing or unexpected keys, "
            "another architecture."
        ),
        signs=(
            '"Error(s) in loading state_dict", "size mismatch for", "Missing key(s)" or "Unexpected '
            'key(s)"; it happens at the start, before the first step.'
        ),
        steps=(
            (
                'Read the first mismatch: a different vocabulary points at the tokenizer, a "module." '
                'prefix at DDP, "_orig_mod." at torch.compile, "base_model." at LoRA.'
            ),
            "Compare the checkpoint's config.json with the one that the run builds.",
            "After tokens were added, call resize_token_embeddings(len(tokenizer)) before loading.",
            "Strip or add the prefix, or load the adapter onto the base model that it was trained with.",
            (
                "For DeepSpeed or FSDP shards resume with the same world size, or convert them first "
                "(zero_to_fp32.py, DCP utilities)."
            ),
            "Use strict=False only if you know that the missing keys are meant to be new.",
        ),
        sources=(
            "torch/nn/modules/module.py",
            "transformers, from_pretrained and resize_token_embeddings",
            "deepspeed/utils/zero_to_fp32.py",
        ),
    ),
    CrashType(
        name="data_error",
        blame=Blame.DATA,
        retry=Retry.NO,
        what=(
            "A sample or a whole dataset cannot be read: broken JSON, a damaged Arrow or Parquet file, a "
            "wrong encoding, a bad image, or columns that do not agree. It fails at the same sample each "
            "time."
        ),
        signs=(
            "JSONDecodeError, ArrowInvalid, UnicodeDecodeError, DatasetGenerationError or "
            "UnidentifiedImageError, with a reader or the dataset's __getitem__ in the trace."
        ),
        steps=(
            (
                "Find the file and the line: the message or the trace names them; otherwise run with "
                "num_workers=0 and print the index."
            ),
            (
                "Look at it: sed -n 'LINEp' FILE; file FILE; a page of HTML or a Git LFS pointer means a "
                "download that failed."
            ),
            (
                "Repair or remove that sample, then check the whole file: python -m json.tool, "
                "pyarrow.parquet.read_table, PIL's verify()."
            ),
            (
                "Remove the cached copy if the source is in order: the dataset's folder under "
                "~/.cache/huggingface/datasets, or download_mode='force_redownload'."
            ),
            (
                "Read with the right encoding (encoding='utf-8'), and give load_dataset the features by "
                "hand where types differ between files."
            ),
            "Let the loader skip and count what it cannot read, so that one bad sample does not end a night.",
        ),
        sources=(
            "datasets, builder.py and exceptions",
            "Apache Arrow, status codes",
            "docs.python.org, json and codecs",
            "Pillow, Image.verify",
        ),
    ),
    CrashType(
        name="config_error",
        blame=Blame.CONFIGURATION,
        retry=Retry.NO,
        what=(
            "A configuration file or the command line is wrong: it cannot be parsed, an option is unknown, "
            "a value is not allowed, or two settings contradict each other."
        ),
        signs=(
            'It fails in the first seconds: argparse\'s "error: unrecognized arguments", a YAML or JSON '
            "parse error with its line, Hydra's or OmegaConf's message, ncclInvalidUsage, or a check of "
            "the arguments."
        ),
        steps=(
            "Read the message: it names the option or the line; correct that first.",
            "Compare with the configuration of the last good run: diff OLD NEW.",
            (
                "Check that the file can be parsed: python -c 'import sys, yaml; "
                "yaml.safe_load(open(sys.argv[1]))' FILE; tabs and unquoted colons are the usual faults."
            ),
            (
                "See which options this version knows: the program's --help; options are renamed between "
                "versions (evaluation_strategy became eval_strategy)."
            ),
            "For batch sizes make the numbers agree: global batch = batch per device x accumulation x ranks.",
            "Try it with one step (max_steps=1) before submitting the long run.",
        ),
        sources=(
            "docs.python.org, argparse",
            "Hydra and OmegaConf docs, errors",
            "transformers, TrainingArguments",
            "deepspeed/runtime/config.py",
        ),
    ),
    CrashType(
        name="import_error",
        blame=Blame.CONFIGURATION,
        retry=Retry.NO,
        what=(
            "A Python module or a shared library cannot be loaded: it is not installed, in another "
            "environment, or built for another version."
        ),
        signs=(
            'ModuleNotFoundError, ImportError, "undefined symbol", "cannot open shared object file" or '
            '"GLIBC_... not found", mostly at the start of the run.'
        ),
        steps=(
            "Make sure that it is the right environment: which python; python -m pip show PACKAGE.",
            (
                "Install what is missing, with the pip of that Python: python -m pip install PACKAGE; "
                "module and package names may differ."
            ),
            (
                "If the module exists but a name in it does not, the versions do not fit: python -m pip "
                "check, and compare with the last good run."
            ),
            (
                "For an undefined symbol rebuild or reinstall the extension for this torch: pip install "
                "--no-build-isolation --force-reinstall --no-deps PACKAGE."
            ),
            (
                "For a missing shared library see what is not found: ldd FILE.so | grep 'not found'; then "
                "set LD_LIBRARY_PATH or install it."
            ),
            (
                "Look for a file of your own with the same name that hides it: python -c 'import X; "
                "print(X.__file__)'."
            ),
        ),
        sources=(
            "docs.python.org, import system",
            "ld.so(8)",
            "pip documentation",
        ),
    ),
    CrashType(
        name="file_not_found",
        blame=Blame.CONFIGURATION,
        retry=Retry.NO,
        what="A path does not exist: a dataset, a model, a tokenizer, a configuration file, or a program.",
        signs=(
            'FileNotFoundError or "No such file or directory" (errno 2) with the path; a model name that is '
            "looked up as a folder belongs here too."
        ),
        steps=(
            "See how far the path exists: namei -l PATH.",
            (
                "If it is relative, it counts from the folder in which the run started: use an absolute "
                "path or set the working directory."
            ),
            (
                "If it lies on a network mount or in a container, see whether it is mounted there: findmnt "
                "-T PATH; docker run -v."
            ),
            (
                "On several nodes make sure that every node sees it; let rank 0 create it and the others "
                "wait at a barrier."
            ),
            "Look for typing errors, an unset variable in the path, and whether a clean-up job removed it.",
            "For a model or a dataset of a hub download it first and pass the folder.",
        ),
        sources=(
            "errno(3), ENOENT",
            "docs.python.org, FileNotFoundError",
            "transformers, from_pretrained",
        ),
    ),
    CrashType(
        name="permission_error",
        blame=Blame.CONFIGURATION,
        retry=Retry.NO,
        what=(
            "Access was denied: to a file or a device by the system, or to a gated model or dataset by the "
            "hub."
        ),
        signs=(
            'PermissionError or "Permission denied" (errno 13), or an HTTP 401 or 403 that speaks of a '
            "gated repository."
        ),
        steps=(
            "See who may do what on the whole path, and who you are: namei -l PATH; id.",
            "Correct owner or mode (chown, chmod, setfacl), or choose an output folder that is yours.",
            (
                "In a container run with your own id, --user $(id -u):$(id -g); caches that root wrote stay "
                "root's."
            ),
            "Point caches to a folder that can be written: HF_HOME, TRITON_CACHE_DIR, TMPDIR, MPLCONFIGDIR.",
            (
                "For a hub accept the model's conditions on its page and log in: hf auth login (earlier: "
                "huggingface-cli login), or set HF_TOKEN."
            ),
            (
                "For a device look at the groups (render, video) and at ls -l /dev/nvidia*; SELinux denials "
                "stand in ausearch -m avc."
            ),
        ),
        sources=(
            "errno(3), EACCES and EPERM",
            "docs.python.org, PermissionError",
            "huggingface_hub docs, authentication",
        ),
    ),
    CrashType(
        name="multiprocessing_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "Worker processes were used wrongly or died: CUDA in a forked child, something that cannot be "
            "pickled, a main module without its guard, or a data loader's worker that is gone."
        ),
        signs=(
            '"Cannot re-initialize CUDA in forked subprocess", "DataLoader worker (pid ...) exited '
            'unexpectedly", PicklingError, BrokenProcessPool, or the message about the bootstrapping phase.'
        ),
        steps=(
            (
                "Look for the worker's own trace or signal above the message: that is the reason, the main "
                "process only saw it go."
            ),
            "Run once with num_workers=0: the error then shows itself in the main process.",
            "If workers were killed, look for memory: journalctl -k -g 'Killed process'; df -h /dev/shm.",
            (
                "Keep CUDA out of datasets and collate functions, or start workers with "
                "multiprocessing_context='spawn'."
            ),
            (
                "Put the start of the script under if __name__ == '__main__':, and move lambdas and local "
                "functions to the top of a module."
            ),
            "Open files, locks and connections in each worker (worker_init_fn), not before it is started.",
        ),
        sources=(
            "torch/utils/data/_utils",
            "docs.python.org, multiprocessing, programming guidelines",
            "docs.pytorch.org, notes/multiprocessing",
        ),
    ),
    CrashType(
        name="compile_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "A graph or a kernel could not be compiled: by torch.compile (Dynamo, Inductor), Triton, XLA, "
            "or by nvcc and ninja for an extension."
        ),
        signs=(
            "torch._dynamo.exc or an InductorError, triton's CompilationError or a failed ptxas, XLA's "
            'compilation failure, "Error building extension"; the compiler\'s own first error stands '
            "further up."
        ),
        steps=(
            'Read the first "error:" of the compiler, not the Python trace below it.',
            (
                "Run without compiling to see whether the model itself is right: TORCH_COMPILE_DISABLE=1, "
                "torch_compile=False."
            ),
            (
                "Clear the cache once and put it on a local disk: rm -r ~/.triton/cache; "
                "TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR; for extensions ~/.cache/torch_extensions."
            ),
            (
                "Check that compilers fit: nvcc --version against torch.version.cuda, gcc --version against "
                "what that nvcc supports, and CUDA_HOME."
            ),
            (
                "See what Dynamo does: TORCH_LOGS=graph_breaks,recompiles; mark the function with "
                "torch.compiler.disable."
            ),
            "If the compiler was killed, it was memory: MAX_JOBS=2.",
        ),
        sources=(
            "torch/_dynamo/exc.py",
            "torch/_inductor",
            "triton/compiler",
            "torch/utils/cpp_extension.py",
        ),
    ),
    CrashType(
        name="assertion_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "The code checked a condition that it relies on, and it did not hold. The condition is the "
            "message, even where no text is given."
        ),
        signs="AssertionError at the end of the traceback; the last frame shows the assert that failed.",
        steps=(
            "Read the assert and the comment near it: it says what was expected.",
            "Print the values that it compares just before it: shapes, counts, world size, token ids.",
            (
                "In a library it is mostly a wrong setting: search its documentation for the names in the "
                "condition."
            ),
            "Compare with the last good run: git diff, pip freeze, the configuration, the data.",
            (
                "Reproduce it small: the CPU, one process, num_workers=0, one batch; then it takes seconds "
                "and a debugger works."
            ),
            "Correct it, and add this case to a test, so that it is met in seconds and not after hours.",
        ),
        sources=("docs.python.org, AssertionError",),
    ),
    CrashType(
        name="key_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "A mapping was asked for a key that it does not hold: a column of the dataset, a field of the "
            "configuration, an entry of a state, an environment variable."
        ),
        signs=(
            "KeyError with the key at the end of the traceback; the innermost frame tells which mapping it "
            "was."
        ),
        steps=(
            "Read the innermost frame of your own code: which mapping, and who filled it?",
            (
                "Print the keys that exist just before that line; look for other spelling, a prefix, or a "
                "renamed column."
            ),
            (
                "For a dataset see its columns (dataset.column_names) and whether remove_unused_columns "
                "took one away."
            ),
            (
                "For os.environ set the variable: RANK, WORLD_SIZE and LOCAL_RANK are set by torchrun, not "
                "by python."
            ),
            (
                "Find the sample or the file that lacks the key, and decide whether it is repaired, skipped "
                "or given a default (.get)."
            ),
            "Correct it, and add this case to a test, so that it is met in seconds and not after hours.",
        ),
        sources=(
            "docs.python.org, KeyError",
            "datasets, Dataset.column_names",
            "docs.pytorch.org, torchrun",
        ),
    ),
    CrashType(
        name="value_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "A function got an argument of the right type but with a value that it cannot use: a wrong "
            "length, an unknown name, a number out of range."
        ),
        signs="ValueError at the end of the traceback; its text mostly says what was expected and what came.",
        steps=(
            (
                "Read the message and the innermost frame of your own code: which value is wrong, and where "
                "does it come from?"
            ),
            (
                "If it comes from the settings, correct it there; look up what this version of the library "
                "accepts."
            ),
            (
                "If it comes from the data, find the sample: run with num_workers=0 and print its index; "
                "padding=True and truncation=True cure ragged lengths."
            ),
            "Compare with the last good run: git diff, pip freeze, the configuration, the data.",
            (
                "Reproduce it small: the CPU, one process, num_workers=0, one batch; then it takes seconds "
                "and a debugger works."
            ),
            "Correct it, and add this case to a test, so that it is met in seconds and not after hours.",
        ),
        sources=("docs.python.org, ValueError",),
    ),
    CrashType(
        name="type_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "An operation or a function got an object of the wrong type, or arguments that it does not "
            "have. After an update it is mostly an argument that was renamed or removed."
        ),
        signs=(
            'TypeError at the end of the traceback: "unexpected keyword argument", "unsupported '
            'operand", "\'NoneType\' object is not ...".'
        ),
        steps=(
            "Read the innermost frame of your own code and the name in the message.",
            (
                "For an unexpected argument look at what this version takes: python -c 'import inspect, X; "
                "print(inspect.signature(X.Y))', then change the call or pin the version."
            ),
            (
                "For None find out who should have returned something: a missing return, a field without a "
                "value, a failed look-up."
            ),
            (
                "For text where a number is expected look at the configuration: YAML reads 1e-5 as text, "
                "1.0e-5 as a number."
            ),
            (
                "Reproduce it small: the CPU, one process, num_workers=0, one batch; then it takes seconds "
                "and a debugger works."
            ),
            "Correct it, and add this case to a test, so that it is met in seconds and not after hours.",
        ),
        sources=(
            "docs.python.org, TypeError",
            "YAML 1.1, float",
        ),
    ),
    CrashType(
        name="attribute_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "An object was asked for an attribute or a method that it does not have: it is None or of "
            "another class, or the library's version has renamed it."
        ),
        signs=(
            'AttributeError at the end of the traceback, with the class and the attribute; "module ... has '
            'no attribute" points at versions or at a file that hides the module.'
        ),
        steps=(
            (
                "Read the class in the message: is it the one that you expect, or NoneType, or a wrapper "
                "such as DistributedDataParallel?"
            ),
            "For a wrapper go through it: model.module, accelerator.unwrap_model(model).",
            (
                "For a module compare versions (pip show, pip check), read its change log, and see which "
                "file was imported: X.__file__."
            ),
            "For None look one line up the call: what returned it, and why?",
            "Compare with the last good run: git diff, pip freeze, the configuration, the data.",
            "Correct it, and add this case to a test, so that it is met in seconds and not after hours.",
        ),
        sources=("docs.python.org, AttributeError",),
    ),
    CrashType(
        name="index_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "An index lies outside of a sequence or a tensor: an empty list, a batch that is shorter than "
            "expected, a token id or a label beyond the table."
        ),
        signs=(
            'IndexError at the end of the traceback: "list index out of range", "index out of range in '
            'self" (an embedding on the CPU).'
        ),
        steps=(
            "Read the innermost frame of your own code: which sequence, which index?",
            (
                "For an embedding compare the largest id with the table: input_ids.max() against "
                "num_embeddings; sequences against max_position_embeddings."
            ),
            "Look for empty samples and for the last, shorter batch: filter them, or drop_last=True.",
            "Run with num_workers=0 and print the sample's index.",
            (
                "Reproduce it small: the CPU, one process, num_workers=0, one batch; then it takes seconds "
                "and a debugger works."
            ),
            "Correct it, and add this case to a test, so that it is met in seconds and not after hours.",
        ),
        sources=(
            "docs.python.org, IndexError",
            "docs.pytorch.org, torch.nn.Embedding",
        ),
    ),
    CrashType(
        name="name_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "A name is used that does not exist there, or not yet: a typing error, a missing import, or a "
            "variable that only one branch sets."
        ),
        signs="NameError or UnboundLocalError with the name at the end of the traceback.",
        steps=(
            "Read the line: a typing error or a missing import is seen at once.",
            (
                "For UnboundLocalError look for the branch in which the name is not set, as for an empty "
                "loop or after a failed try."
            ),
            (
                "For a name of an optional library see whether its import failed silently further up: "
                "install it."
            ),
            "Let a checker find the others: ruff check --select F, or pyflakes.",
            "Correct it, and add this case to a test, so that it is met in seconds and not after hours.",
        ),
        sources=(
            "docs.python.org, NameError and UnboundLocalError",
            "ruff, rule F821",
        ),
    ),
    CrashType(
        name="syntax_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "A source file is not valid for this Python: an unclosed bracket, mixed indentation, a conflict "
            "marker of a merge, or syntax of a newer version."
        ),
        signs=(
            "SyntaxError, IndentationError or TabError with file, line and a caret; nothing of that file "
            "has run."
        ),
        steps=(
            (
                "Look at the line that is named and at the one before it: the bracket or the quote that is "
                "missing often stands above."
            ),
            "Check all files at once, without running them: python -m compileall -q FOLDER.",
            "Look for what a merge left: grep -rnE '^(<<<<<<<|>>>>>>>)' FOLDER.",
            (
                "If the file belongs to a library, the Python is too old for it: python --version against "
                "its requirements."
            ),
            "Have a commit checked before it runs: ruff check.",
        ),
        sources=("docs.python.org, SyntaxError",),
    ),
    CrashType(
        name="runtime_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "A library found a state in which it could not go on; PyTorch uses this class for most of its "
            "own errors, such as shapes, devices and data types that do not fit together."
        ),
        signs=(
            "RuntimeError at the end of the traceback with a text that fits none of the more precise types."
        ),
        steps=(
            "Read the message: for shapes, devices or types it names both sides.",
            "Go to the innermost frame of your own code and print shape, dtype and device of what goes in.",
            (
                "For tensors on two devices or of two types move them together: .to(device), autocast, the "
                "model's dtype."
            ),
            (
                "For DDP's unused parameters or in-place errors set find_unused_parameters=True, or run "
                "with TORCH_DISTRIBUTED_DEBUG=DETAIL."
            ),
            (
                "Reproduce it small: the CPU, one process, num_workers=0, one batch; then it takes seconds "
                "and a debugger works."
            ),
            "Compare with the last good run: git diff, pip freeze, the configuration, the data.",
        ),
        sources=(
            "docs.python.org, RuntimeError",
            "c10/util/Exception.cpp",
            "torch/nn/parallel/distributed.py",
        ),
    ),
    CrashType(
        name="zero_division_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "Something was divided by zero: mostly a count that is unexpectedly zero, such as an empty "
            "dataset, no steps in an epoch, or no valid labels."
        ),
        signs="ZeroDivisionError at the end of the traceback; the last frame shows the division.",
        steps=(
            "Read the divisor in the last frame: what does it count, and why is it zero?",
            "Look at the dataset's size after filtering and splitting: len(dataset), and per rank.",
            (
                "See whether the batch is larger than the dataset while drop_last=True, or whether "
                "accumulation leaves no step in an epoch."
            ),
            (
                "Guard the division where zero is legitimate, and refuse an empty dataset at the start with "
                "a clear message."
            ),
            "Correct it, and add this case to a test, so that it is met in seconds and not after hours.",
        ),
        sources=("docs.python.org, ZeroDivisionError",),
    ),
    CrashType(
        name="not_implemented_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "The operation does not exist for this combination: a backend without that operator or data "
            "type, a method that a subclass must write, or a feature that a library leaves out."
        ),
        signs=(
            "NotImplementedError at the end of the traceback; PyTorch's text names the operator and the "
            "backend."
        ),
        steps=(
            "Read which operator, backend or method is missing.",
            (
                "For a backend run that part elsewhere: PYTORCH_ENABLE_MPS_FALLBACK=1, .cpu() around it, or "
                "another dtype."
            ),
            (
                "For a meta tensor load the weights first (to_empty, then load), or do without "
                "low_cpu_mem_usage and device_map."
            ),
            (
                "For an abstract method write it in your subclass, or check that its name did not change "
                "with the version."
            ),
            "Look whether a newer version has it; otherwise switch off the option that needs it.",
        ),
        sources=(
            "docs.python.org, NotImplementedError",
            "aten/src/ATen/core/dispatch",
            "docs.pytorch.org, notes/mps",
        ),
    ),
    CrashType(
        name="os_error",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "A system call failed for a reason that has no type of its own here; the errno and the path say "
            "which."
        ),
        signs=(
            "OSError (or IOError) with [Errno N] at the end of the traceback; Transformers raises it too, "
            "without an errno, for a model that it cannot find."
        ),
        steps=(
            "Look up the number: python -c 'import errno, os; print(errno.errorcode[N], os.strerror(N))'.",
            "Look at the path in the message: stat PATH; findmnt -T PATH; df -h PATH.",
            "Look in the kernel log at that time: journalctl -k --since '10 minutes ago'.",
            (
                "If it names a model or a repository, check the name, the folder and the login (HF_TOKEN), "
                "and whether offline mode is on."
            ),
            "Run the one call by itself, under strace -f -e trace=file if need be.",
            "Restart only if the reason has passed.",
        ),
        sources=(
            "errno(3)",
            "docs.python.org, OSError",
            "transformers, from_pretrained",
        ),
    ),
    CrashType(
        name="python_exception",
        blame=Blame.SOFTWARE,
        retry=Retry.NO,
        what=(
            "An exception of another class ended the run, and no signature knows its text: an exception of "
            "a library or one of your own."
        ),
        signs=(
            "A traceback whose last line holds a class that is in no other type; the class's module tells "
            "where it comes from."
        ),
        steps=(
            "Read the last line, then the innermost frame of your own code, then the frame above it.",
            (
                'For chained traces read the first one: what follows "During handling" is often only a '
                "consequence."
            ),
            "Search the library's documentation and its issues for the class and the fixed part of the text.",
            "Compare with the last good run: git diff, pip freeze, the configuration, the data.",
            (
                "Reproduce it small: the CPU, one process, num_workers=0, one batch; then it takes seconds "
                "and a debugger works."
            ),
            "If it is met more often, give it a row of its own in the file that detector.signatures names.",
        ),
        sources=("docs.python.org, traceback and exceptions",),
    ),
    CrashType(
        name="hang",
        blame=Blame.SOFTWARE,
        retry=Retry.YES,
        what=(
            "The process lives but makes no progress: no new step for longer than the limit. Ranks wait for "
            "each other, a kernel does not end, the data does not come, or the storage does not answer."
        ),
        signs=(
            "No line of a log shows it: the watchdog's clock does. A busy GPU points at a collective or a "
            "kernel, a busy CPU at data or compiling, neither at a deadlock or I/O, state D at the storage."
        ),
        steps=(
            "See where each rank stands: py-spy dump --pid PID (with --native for libraries), for all ranks.",
            (
                "See what is busy: nvidia-smi; top -H -p PID; ps -o pid,stat,wchan:30,cmd -p PID; state D "
                "waits for the storage."
            ),
            "Compare the ranks: the one with another stack is the one that the others wait for.",
            (
                "If saving, evaluating or compiling takes that long, raise progress.timeout or "
                "progress.startup_timeout."
            ),
            (
                "Restart from the last checkpoint; have the stacks written the next time: "
                "faulthandler.register(signal.SIGUSR1, all_threads=True)."
            ),
            (
                "If it comes back with workers, try num_workers=0; with collectives, "
                "TORCH_NCCL_TRACE_BUFFER_SIZE=2000 and NCCL_DEBUG=INFO."
            ),
        ),
        sources=(
            "py-spy manual",
            "docs.python.org, faulthandler",
            "proc(5), process states",
            "torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp",
        ),
    ),
    CrashType(
        name="unknown",
        blame=Blame.SOFTWARE,
        retry=Retry.YES,
        what="The run ended badly, and neither the log nor the machine says why.",
        signs=(
            "A non-zero exit code or a signal, with no traceback, no kernel line and no word of the "
            "scheduler."
        ),
        steps=(
            "Look at the code: above 128 it is a signal (code minus 128); kill -l N names it.",
            "Read the last lines before the end by eye, of every rank, stderr as well: tail -n 200.",
            (
                "Ask the machine and the scheduler: journalctl -k -e; sacct -j JOB -o State,ExitCode; "
                "kubectl describe pod."
            ),
            (
                "Make sure that nothing is lost: PYTHONUNBUFFERED=1, stderr into the same log, --redirects "
                "3 or --tee 3 for torchrun."
            ),
            (
                "Record more and restart: PYTHONFAULTHANDLER=1, NCCL_DEBUG=WARN, and @record on main() for "
                "torchrun's error file."
            ),
            (
                "If you find the line that tells it, add a row for it to the file that detector.signatures "
                "names."
            ),
        ),
        sources=(
            "signal(7)",
            "docs.python.org, faulthandler",
            "torch/distributed/elastic/multiprocessing/errors",
        ),
    ),
)
TYPES = {row.name: row for row in _ROWS}
