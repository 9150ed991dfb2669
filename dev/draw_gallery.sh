#!/usr/bin/env bash
# Draws the pictures of docs/gallery.md again, by the commands of that page: dev/draw_gallery.sh [TREE QUAD]
# TREE and QUAD are models of MambaTree and QuadMamba as `tree-ssm analyse visualize` takes them. They are written into the
# page. Without them, those that the page names are drawn. Say on the page what the weights were trained on.
# The quickstart is trained only if there is no work_dirs/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
page=docs/gallery.md
if [ $# = 2 ]; then
    sed -i "s|^TREE=.*|TREE=$1|; s|^QUAD=.*|QUAD=$2|" "$page"
elif [ $# != 0 ]; then
    echo "usage: dev/draw_gallery.sh [TREE QUAD]" >&2
    exit 1
fi
commands=$(awk '/^## Look for yourself$/ {exit} /^```bash$/ {inside = 1; next} /^```$/ {inside = 0} inside' "$page")
[ ! -d work_dirs/quickstart ] || commands=$(grep -v '^tree-ssm quickstart ' <<<"$commands")
bash -euxo pipefail -c "$commands"
