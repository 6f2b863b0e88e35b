#compdef backupctl
# Completion of backupctl for zsh: eval "$(backupctl completion zsh)", or this file as _backupctl in a folder of $fpath.
_backupctl() {
    local -a pairs
    local found line word meaning
    found=$("${(Q)words[1]}" complete-words -- "${(@Q)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)
    if (( $? == 3 )); then
        compset -P '*='
        _files
        return
    fi
    for line in ${(f)found}; do
        word=${line%%$'\t'*}
        meaning=${line#*$'\t'}
        pairs+=("${word//:/\\:}${meaning:+:$meaning}")
    done
    (( $#pairs )) && _describe 'backupctl' pairs -U
}
if [[ $funcstack[1] == _backupctl ]]; then
    _backupctl "$@"
else
    compdef _backupctl backupctl
fi
