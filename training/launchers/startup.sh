#!/bin/bash
# What a training machine does at each start: it trains the one run that its metadata names, and
# switches itself off, whatever happens. docs/machines.md tells what else switches it off.
#
# Metadata: sentinelle-run, -folder, -env (lines NAME=value), -image or -source, -max-run (seconds),
# -keep (“true” leaves the machine on for people). Everything on the disk is in SENTINELLE_DISK.
set -Eeuo pipefail

METADATA="http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance"
STORAGE="${STORAGE_EMULATOR_HOST:-https://storage.googleapis.com}"
DISK="${SENTINELLE_DISK:-/var/lib/sentinelle}"
MEMORY="${SENTINELLE_MEMORY:-/proc/meminfo}"
LOG="$DISK/output.txt"
OUTPUT_BYTES=20000
RESERVED_MB=200 # of the memory, for the system
SWAP_BELOW_MB=4000
DEFAULT_MAX_RUN=21600
FOLDER=""
KEEP=""
TAIL=""

say() { printf 'sentinelle: %s\n' "$*"; }

# First of all: no end of this script, good or bad, leaves the machine on.
switch_off() {
  local status=$?
  trap - EXIT
  trap '' TERM INT
  set +e
  if [[ $KEEP == true ]]; then
    say "The machine stays on: it was started with --keep."
  else
    say "exit status $status"
    [[ -z $FOLDER ]] || keep_output
    sync
    shutdown -h now
  fi
  # What follows the log to the console has a moment to write the last line.
  sleep 0.2
  [[ -z $TAIL ]] || kill "$TAIL" 2>/dev/null
  exit "$status"
}
trap switch_off EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# The value of an attribute; nothing if there is none. Fails when nobody says which.
attribute() {
  local answer
  answer=$(curl --silent --fail --max-time 10 --retry 5 --retry-connrefused \
    --write-out '\n%{http_code}' \
    --header "Metadata-Flavor: Google" "$METADATA/attributes/$1") || true
  case ${answer##*$'\n'} in
    200) printf '%s' "${answer%$'\n'*}" ;;
    404) ;;
    *)
      say "The machine's attribute $1 can't be read: HTTP status ${answer##*$'\n'}." >&2
      return 1
      ;;
  esac
}

token() {
  curl --silent --show-error --fail --max-time 10 --retry 5 --retry-connrefused \
    --header "Metadata-Flavor: Google" "$METADATA/service-accounts/default/token" |
    sed --regexp-extended 's/.*"access_token" *: *"([^"]+)".*/\1/'
}

encoded() { python3 -c 'import sys, urllib.parse as u; print(u.quote(sys.argv[1], safe=""))' "$1"; }

bucket_of() {
  local path=${1#gs://}
  printf '%s' "${path%%/*}"
}

name_of() {
  local path=${1#gs://}
  encoded "${path#*/}"
}

# Put the end of what was printed into the run folder, for whoever reads why the run ended.
keep_output() {
  tail --bytes="$OUTPUT_BYTES" "$LOG" | curl --silent --show-error --fail --max-time 30 --retry 3 \
    --request POST --header "Authorization: Bearer $(token)" --header "Content-Type: text/plain" \
    --data-binary @- --output /dev/null \
    "$STORAGE/upload/storage/v1/b/$(bucket_of "$FOLDER")/o?uploadType=media&name=$(name_of "$FOLDER/log/output.txt")" ||
    say "The output could not be kept in the run folder."
}

download() { # LOCATION FILE
  curl --silent --show-error --fail --max-time 300 --retry 5 --retry-connrefused \
    --header "Authorization: Bearer $(token)" --output "$2" \
    "$STORAGE/storage/v1/b/$(bucket_of "$1")/o/$(name_of "$1")?alt=media"
}

memory_mb() { awk '/^MemTotal:/ { print int($2 / 1024) }' "$MEMORY"; }

# A machine of 1 GB needs it to load the libraries. It is slow, and better than no run at all.
add_swap() {
  (($(memory_mb) < SWAP_BELOW_MB)) || return 0
  if make_swap && swapon "$DISK/swap"; then return 0; fi
  # The next boot makes it anew.
  rm --force "$DISK/swap"
  return 1
}

make_swap() {
  [[ -e $DISK/swap ]] && return 0
  fallocate --length 2G "$DISK/swap" && chmod 600 "$DISK/swap" && mkswap "$DISK/swap" >/dev/null
}

install_packages() {
  say "Installing $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get --quiet --option Acquire::Retries=3 --option DPkg::Lock::Timeout=300 update
  apt-get --quiet --yes --no-install-recommends --option Acquire::Retries=3 \
    --option DPkg::Lock::Timeout=300 install "$@"
}

run_container() { # IMAGE RUN
  local options=() line host=${1%%/*}
  command -v docker >/dev/null || install_packages docker.io
  if [[ $host == *.pkg.dev || $host == gcr.io || $host == *.gcr.io ]]; then
    token | docker login --username oauth2accesstoken --password-stdin "https://$host"
  fi
  # What is left of containers when a machine loses its power; they hold on to their images.
  docker rm --force "sentinelle-$2" >/dev/null 2>&1 || true
  docker container prune --force >/dev/null || say "Old containers stay."
  # The disk has no room for the images of many releases.
  docker image inspect "$1" >/dev/null 2>&1 || docker image prune --all --force >/dev/null ||
    say "Old images stay."
  say "Fetching the image $1"
  docker pull "$1"
  # What the same name meant before.
  docker image prune --force >/dev/null || say "Old images stay."
  for line in "${ENVIRONMENT[@]}"; do options+=(--env "$line"); done
  say "Training in the container"
  docker run --rm --name "sentinelle-$2" --network host \
    --memory "$(($(memory_mb) - RESERVED_MB))m" "${options[@]}" \
    "$1" python -m training.pipeline.job "$FOLDER" --execution "$2"
}

# The program's files, by the digest of their archive: kept on the disk, fetched once.
fetch_source() { # LOCATION DIGEST
  local folder="$DISK/source/$2" archive="$DISK/source.tar.gz"
  if [[ ! -e $folder ]]; then
    say "Fetching the program"
    download "$1" "$archive"
    printf '%s  %s\n' "$2" "$archive" | sha256sum --check --status || {
      say "The program's archive $1 is damaged: its digest is another one."
      return 1
    }
    rm -rf "$DISK/source"
    mkdir -p "$folder.partial"
    tar --extract --gzip --file "$archive" --directory "$folder.partial"
    mv "$folder.partial" "$folder"
    rm "$archive"
  fi
}

# Its libraries, by the digest of what it needs: an environment that is kept too.
make_environment() { # SOURCE VENV
  [[ ! -e $2/complete ]] || return 0
  python3 -c "import ensurepip, venv" 2>/dev/null || install_packages python3-venv
  say "Installing the libraries"
  rm -rf "$DISK"/venv-*
  python3 -m venv "$2"
  "$2/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
    --only-binary=:all: --requirement "$1/requirements-training.txt" \
    --constraint "$1/requirements.txt"
  touch "$2/complete"
}

run_program() { # SOURCE RUN
  local digest=${1##*/} source venv line
  digest=${digest%.tar.gz}
  source="$DISK/source/$digest"
  fetch_source "$1" "$digest"
  venv="$DISK/venv-$(cat "$source"/requirements*.txt | sha256sum | cut --characters=1-16)"
  make_environment "$source" "$venv"
  say "Training"
  (
    cd "$source"
    for line in "${ENVIRONMENT[@]}"; do export "${line?}"; done
    export NUMBA_CACHE_DIR="$DISK/numba" PYTHONUNBUFFERED=1
    # When there is no memory left, the kernel ends the program and not the system.
    echo 1000 >/proc/self/oom_score_adj || true
    exec "$venv/bin/python" -m training.pipeline.job "$FOLDER" --execution "$2"
  )
}

main() {
  local run image source environment max_run
  mkdir -p "$DISK"
  : >"$LOG"
  # From here on all that is printed goes to the log, and from there to the console as well.
  tail --quiet --follow "$LOG" &
  TAIL=$!
  exec >>"$LOG" 2>&1
  command -v curl >/dev/null || install_packages curl
  max_run=$(attribute sentinelle-max-run)
  [[ $max_run =~ ^[0-9]+$ ]] || max_run=$DEFAULT_MAX_RUN
  # A fuse, should this script be killed or the program hang.
  shutdown -h "+$(((max_run + 59) / 60))"
  KEEP=$(attribute sentinelle-keep)
  run=$(attribute sentinelle-run)
  if [[ -z $run ]]; then
    say "There is no run to train."
    return 0
  fi
  KEEP=""
  FOLDER=$(attribute sentinelle-folder)
  image=$(attribute sentinelle-image)
  source=$(attribute sentinelle-source)
  environment=$(attribute sentinelle-env)
  mapfile -t ENVIRONMENT < <(printf '%s' "$environment")
  ENVIRONMENT+=("RUN_FOLDER=$FOLDER" "SENTINELLE_RUN=$run")
  say "Run $run in $FOLDER"
  add_swap || say "There is no swap."
  if [[ -n $image ]]; then
    run_container "$image" "$run"
  else
    run_program "$source" "$run"
  fi
}

main
