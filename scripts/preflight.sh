#!/bin/sh
# What `make setup` needs of the machine before it begins. Names everything that is missing, with the package that has it.
python=${PYTHON:-python3}
missing=""
need() { missing="$missing
  $1: $2"; }

if ! command -v "$python" >/dev/null 2>&1; then
  need "Python 3.11 or newer ($python not found)" "apt-get install python3 python3-venv python3-dev"
else
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || need "Python 3.11 or newer ($("$python" -V))" "install a newer one and set PYTHON=/path/to/python3.11"
  "$python" -c 'import venv, ensurepip' 2>/dev/null || need "venv for $python" "apt-get install python3-venv"
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
    need "Python headers (torch.compile builds C++ against them)" "apt-get install python3-dev"
fi
command -v g++ >/dev/null 2>&1 || need "g++ (torch.compile builds its kernels with it)" "apt-get install g++"

[ -z "$missing" ] && exit 0
printf 'mixer cannot be set up here yet. Missing:%s\n' "$missing" >&2
exit 1
