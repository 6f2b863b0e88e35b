# Completion of backupctl for bash: eval "$(backupctl completion bash)", or this file where bash-completion looks.
_backupctl() {
    local line=${COMP_LINE:0:COMP_POINT} piece before index
    local -a words=()
    # bash cuts words at = : @ too; what stood together on the line is put together again.
    for ((index = 0; index <= COMP_CWORD; index++)); do
        piece=${COMP_WORDS[index]}
        before=${line%%"$piece"*}
        if [[ -z $piece ]]; then
            [[ $line == [[:space:]]* ]] && before=' ' || before=''
        fi
        line=${line#"$before$piece"}
        if ((index > 0)) && [[ -z $before ]]; then
            words[-1]+=$piece
        else
            words+=("$piece")
        fi
    done
    local word=${words[-1]} found
    found=$("${words[0]/#\~/$HOME}" complete-words -- "${words[@]:1}" 2>/dev/null)
    if (($? == 3)); then
        compopt -o default
        COMPREPLY=()
        return
    fi
    # What stands before the last of the cuts is on the line already.
    local cut=${word%"${word##*[=:@]}"}
    [[ $COMP_WORDBREAKS == *@* ]] || cut=${word%"${word##*[=:]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r word _; do
        [[ -n $word ]] && COMPREPLY+=("${word#"$cut"}")
    done <<<"$found"
}
complete -F _backupctl backupctl
