# To be sourced, with $root: five sets of real photos, and the images that each has for training, 90 % of the good ones.
# $root holds mvtec_ad_small/, wood_boards_256/, concrete_crack_700/ and covid19_xray/.
declare -A data=(
  [screw]="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=screw"
  [transistor]="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=transistor"
  [wood]="data=folder data.root=$root/wood_boards_256 data.category=wood data.kind=texture"
  [cracks]="data=folder data.root=$root/concrete_crack_700 data.category=cracks data.kind=texture"
  [xray]="data=folder data.root=$root/covid19_xray data.category=xray"
)
declare -A images=([screw]=288 [transistor]=192 [wood]=63 [cracks]=225 [xray]=63)
