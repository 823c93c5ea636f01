# fish completion for swell: swell completion fish | source
complete --command swell --no-files \
    --arguments "(env _SWELL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS=(commandline -cp) swell)" \
    --condition "env _SWELL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=is-args _TYPER_COMPLETE_ARGS=(commandline -cp) swell"
