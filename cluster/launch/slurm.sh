set -euo pipefail

# This job's token and Ray's files: on each node's own disk, for this user alone, removed at the end. (Ray opens the
# folder that it is given to everybody; not the one around it. In a deep folder its sockets' names would be too long.)
dir=${ENERGYAWARE_TMP:-/tmp}/energyaware-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$dir/token
export RAY_worker_niceness=0 # measured work must not wait for whatever else runs
export RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_TOKEN RAY_ADDRESS

nodes=$SLURM_JOB_NUM_NODES
step=(srun --overlap --ntasks-per-node=1 --cpu-bind=none --mem=0 --export=ALL)
everywhere=("${step[@]}" --nodes="$nodes" --ntasks="$nodes")

free_port() { # other users' jobs may be on this node, and have Ray's usual ports
    python -c 'import socket; free = socket.socket(); free.bind(("", 0)); print(free.getsockname()[1])'
}

start_ray() { # start_ray OPTION...: until it is ended by a signal
    exec ray start --block --num-cpus="$cpus" --num-gpus="$gpus" --temp-dir="$dir/ray" --include-log-monitor=false \
        --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0 "$@" > /dev/null
}
export -f start_ray
export dir cpus gpus

head='' others=''
finish() {
    trap - EXIT TERM USR1
    for process in $others $head; do # a node that outlives its head would wait for it
        kill "$process" 2> /dev/null || true
        wait "$process" || true
    done
    "${everywhere[@]}" rm -rf "$dir" || true
}
trap finish EXIT

# The token goes to the nodes through pipes: it is in no argument, no variable, no log, and on no shared disk.
# shellcheck disable=SC2016
python -c 'import secrets; print(secrets.token_hex(32))' |
    "${everywhere[@]}" bash -c 'mkdir -m 700 "$dir" 2> /dev/null || [[ -O $dir ]]; umask 077; cat > "$dir/token"'

here=127.0.0.1
if ((nodes > 1)); then # the address by which the last node sees this one
    last=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tail -n 1)
    here=$("${step[@]}" --nodes=1 --ntasks=1 --nodelist="$last" printenv SLURM_LAUNCH_NODE_IPADDR)
fi
address=$here:$(free_port)
start_ray --head --node-ip-address="$here" --port="${address##*:}" --ray-client-server-port="$(free_port)" \
    --include-dashboard=false &
head=$!
until [[ -s $dir/ray/ray_current_cluster ]]; do
    kill -0 "$head" # ends this script where Ray could not be started
    sleep 1
done
if ((nodes > 1)); then
    "${step[@]}" --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --exclude="$SLURMD_NODENAME" \
        bash -c 'start_ray "$@"' bash --address="$address" &
    others=$!
fi
energyaware cluster wait "$nodes" --address "$address"

# What warns this script alone lets running fine-tunings leave a checkpoint: USR1 (#SBATCH --signal, time is nearly up)
# has the job queued again; `scancel --signal=TERM --batch JOB` does not. `scancel JOB` ends all processes at once.
warned=''
trap 'warned=yes; kill -INT "$run"' USR1
trap 'kill -TERM "$run"' TERM
# shellcheck disable=SC2154 # assigned above, for this job
energyaware run "$sweep" --results "$results" --address "$address" &
run=$!
code=0
wait "$run" || code=$?
while kill -0 "$run" 2> /dev/null; do # a signal ends `wait` before what it waits for
    code=0
    wait "$run" || code=$?
done

finish
if [[ $warned && $code == 130 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
